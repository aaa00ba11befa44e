package tomlfile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

func TestLineOfEveryKey(t *testing.T) {
	// Each key's name ends in the line that it stands on.
	text := strings.Join([]string{
		/*  1 */ `a1 = 1`,
		/*  2 */ `"b 2" = 'it "s' # no = key`,
		/*  3 */ `c3 . "d.e" . 'f\u' = """`,
		/*  4 */ `x = 1`,
		/*  5 */ `[y]`,
		/*  6 */ `\""" z"""""`,
		/*  7 */ `g7 = [ # x = 1`,
		/*  8 */ `  { h8 = 1 }, { h8 = 2,`,
		/*  9 */ `    i9.j9 = '''k = ']'`,
		/* 10 */ `''' },`,
		/* 11 */ `  [ { l11 = {} } ] ]`,
		/* 12 */ `[ m12 . "n\t12" ] # [o]`,
		/* 13 */ `p13 = 2026-01-01 00:00:00Z`,
		/* 14 */ `[[q14]]`,
		/* 15 */ `r15 = "#"`,
		/* 16 */ `[[q14]]`,
		/* 17 */ `r17 = "\"="`,
		/* 18 */ `[q14.s18]`,
		/* 19 */ `[t19.u19]` + "\r",
		/* 20 */ `[t19]`,
		/* 21 */ `"\u00e9\U0001F600\x41\e" = 0`,
	}, "\n")
	if _, err := toml.Decode(text, new(map[string]any)); err != nil {
		t.Fatal(err)
	}
	x := indexLines(text)
	for at, line := range map[string]int{
		`a1`: 1, `"b 2"`: 2, `c3`: 3, `c3."d.e"."f\\u"`: 3, `g7`: 7, `g7[0].h8`: 8, `g7[1].h8`: 8, `g7[1].i9`: 9, `g7[1].i9.j9`: 9,
		`g7[2]`: 11, `g7[2][0].l11`: 11, `m12`: 12, `m12."n\t12"`: 12, `m12."n\t12".p13`: 13, `q14`: 14, `q14[0]`: 14, `q14[0].r15`: 15,
		`q14[1]`: 16, `q14[1].r17`: 17, `q14[1].s18`: 18, `t19`: 20, `t19.u19`: 19,
		place{}.child("t19").child("é😀A\x1b").at: 21,
	} {
		if m, ok := x.marks[at]; !ok || m.line != line {
			t.Errorf("%s: line %d (known: %v), want %d", at, m.line, ok, line)
		}
	}
}

func TestTextOutOfBoundsIsRefusedBeforeTheParserSeesIt(t *testing.T) {
	for name, text := range map[string]string{
		"arrays":        "a = " + strings.Repeat("[", 5_000_000),
		"inline tables": "a = " + strings.Repeat("{a=", 1_000_000),
		"dotted key":    "a" + strings.Repeat(".a", 1_000_000) + " = 1",
		"table header":  "[a" + strings.Repeat(".a", 1_000_000) + "]",
		"long key":      "[" + strings.Repeat("a", 3000) + "]\n" + strings.Repeat("b", 3000) + " = 1",
	} {
		t.Run(name, func(t *testing.T) {
			text := "# a comment\n" + text
			wantFaults(t, text, faultWant{strings.Count(text[:min(len(text), 3100)], "\n") + 1, "", "nested"})
		})
	}
	const levels = 30
	deep := "a = " + strings.Repeat("[", levels) + strings.Repeat("]", levels)
	if x := indexLines(deep); x.tooDeep != 0 {
		t.Errorf("%d levels are refused", levels)
	}
}

// FuzzLineIndex shows that the index agrees with the parser on what is a key, and that nothing makes
// it panic.
func FuzzLineIndex(f *testing.F) {
	for _, text := range seeds(f) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		x := indexLines(text)
		if x.tooDeep > 0 {
			return
		}
		md, ok := parserKeys(text)
		if !ok {
			return
		}
		var want []string
		for _, key := range md {
			want = append(want, key.String())
		}
		if !slices.Equal(x.keys, want) {
			t.Fatalf("index: %q\nparser: %q", x.keys, want)
		}
		lines := 1 + strings.Count(text, "\n")
		for at, m := range x.marks {
			if m.line < 1 || m.line > lines {
				t.Fatalf("%s is on line %d of %d", at, m.line, lines)
			}
		}
	})
}

func parserKeys(text string) (keys []toml.Key, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	md, err := toml.Decode(text, new(map[string]any))
	return md.Keys(), err == nil
}

// seeds are texts that take every turn of the scanner, and the instance files of testdata.
func seeds(tb testing.TB) []string {
	texts := []string{
		"", "a", "a=", "a=1", "[a]", "[[a]]", "[a", "a=[", "a={", `a="`, `a="""`, `a='''`, "\"", "a.", "=", "[]", "[[]]", "a = 1 # b = 2\r\nc = 3",
		"\xef\xbb\xbfa=1", "\xff\xfea=1", `""=1`, `''.""=1`, `a=""""""`, `a=""""a"""""`, "a='''''a'''''", `a="""\""""""`, "a=\"\"\"\\\\\"\"\"\nb=1", "a=\"\"\"\\\"\"\"\nb=1\n\"\"\"", "a=\"\"\"\\\n  b=1\"\"\"",
		"a=[1,2,[3,{b=4}],]\nc=5", "a={b=1,c={d=2},}\n", "a={\n# x\nb=1,\n}\n", "a=[{b=1},{b=2}]\n[c.d]\n[c]\n", "[[a.b]]\nc=1\n[a.b.d]\ne=1\n[[a.b]]\nc=2",
		"a.b.c=1\na.b.d=2", "[ a . 'b' . \"c\\u0041\" ]\nd=1", "a=2026-01-01 00:00:00\nb=1e3\nc=+inf\nd=0x1f\ne=true", `a="\x41\e"`, `"\x41\U0001F600"=1`, `a=1=2`, `"a\"b"=1`, `a=["\"", {b=1}]`, "a=1\na=2",
	}
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil || len(files) == 0 {
		tb.Fatalf("no testdata: %v", err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		texts = append(texts, string(data))
	}
	return texts
}
