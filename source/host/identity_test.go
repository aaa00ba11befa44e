package host

import (
	"strings"
	"testing"
	"unicode"
)

func TestInstanceTypeIsOneWord(t *testing.T) {
	for product, want := range map[string]string{
		"m5.large\n":                        "m5.large",
		"u-6tb1.metal":                      "u-6tb1.metal",
		"Standard PC (i440FX + PIIX, 1996)": "Standard-PC-i440FX-PIIX-1996",
		"  ThinkPad\tX1\r\nevil":            "ThinkPad-X1-evil",
		"服务器":                               "",
		"...":                               "",
		strings.Repeat("a", 63) + "-tail":   strings.Repeat("a", 63),
	} {
		if got := instanceType(product); got != want {
			t.Errorf("instanceType(%q) = %q, want %q", product, got, want)
		}
	}
}

func FuzzDMI(f *testing.F) {
	for _, seed := range []string{"m5.large\n", "Standard PC (Q35 + ICH9, 2009)", "i-0a1b2c3d4e5f67890\n",
		"EC2E1916-9099-7CAF-FD21-012345ABCDEF", "uninitialized", testMachineID, "\x00\xff\n", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		typ := instanceType(text)
		if len(typ) > 64 || strings.ContainsFunc(typ, func(r rune) bool {
			return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("._-", r)
		}) {
			t.Errorf("instanceType(%q) = %q", text, typ)
		}
		if again := instanceType(typ); again != typ {
			t.Errorf("instanceType(%q) = %q, not itself", typ, again)
		}
		for name, id := range map[string]string{"asset tag": idFromAssetTag(text), "UUID": idFromUUID(text), "machine id": idFromMachineID(text)} {
			if id != "" && !instanceIDPattern.MatchString(id) {
				t.Errorf("id of %s %q = %q", name, text, id)
			}
		}
	})
}
