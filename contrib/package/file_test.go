package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

const packagedFile = "imdsfs.toml"

var (
	commented = regexp.MustCompile(`(?m)^#([^ \n].*)$`)
	// Settings that exclude each other: a value, or where to find it.
	either = regexp.MustCompile(`^(user-data|access-key-id|secret-access-key|token)(-file|-base64|-env)? = "(.*)"\n$`)
)

func TestPackagedFileIsGood(t *testing.T) {
	t.Parallel()
	if out, err := exec.Command(built(t, current, "imdsfs-linux-"+runtime.GOARCH), "check", "--quiet", packagedFile).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("imdsfs check: %v\n%s", err, out)
	}
}

// The file with all of its settings is valid: of those that exclude each other, with the first, second or third.
func TestPackagedFileIsGoodWithEverySetting(t *testing.T) {
	t.Parallel()
	imdsfs := built(t, current, "imdsfs-linux-"+runtime.GOARCH)
	tables := strings.SplitAfter(commented.ReplaceAllString(kit.ReadFile(t, packagedFile), "$1"), "\n[")
	for choice := range 3 {
		dir := t.TempDir()
		cmd := exec.Command(imdsfs, "check", "--quiet", filepath.Join(dir, packagedFile))
		cmd.Env = os.Environ()
		var text strings.Builder
		for _, table := range tables {
			forms := map[string][]string{}
			for line := range strings.Lines(table) {
				if m := either.FindStringSubmatch(line); m != nil {
					forms[m[1]] = append(forms[m[1]], line)
				}
			}
			for line := range strings.Lines(table) {
				m := either.FindStringSubmatch(line)
				if m != nil && line != forms[m[1]][min(choice, len(forms[m[1]])-1)] {
					continue
				}
				text.WriteString(line)
				switch {
				case m == nil:
				case m[2] == "-env":
					cmd.Env = append(cmd.Env, m[3]+"=text")
				case m[2] == "-file":
					write(t, filepath.Join(dir, m[3]), "text")
				}
			}
		}
		write(t, filepath.Join(dir, packagedFile), text.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("imdsfs check with every setting, choice %d: %v\n%s", choice, err, out)
		}
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
