package tomlfile

import (
	"errors"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// parserTexts are texts that the parser refuses, by how its message begins. A new version of the parser that says it in
// other words fails here, and not by silently losing advice.
var parserTexts = map[string]string{
	"strings cannot contain newlines":   "a = \"x\nb = 1\n",
	"expected value":                    "a = x\n",
	"invalid datetime":                  "a = 2026-13-01\n",
	"Invalid integer":                   "a = 01\n",
	"Invalid float":                     "a = 01.5\n",
	"invalid float":                     "a = +ix\n",
	"floats must start":                 "a = .5\n",
	"expected a digit":                  "a = +x\n",
	"cannot use sign":                   "a = +0x1\n",
	"not a ":                            "a = 0xg\n",
	"invalid escape":                    "a = \"\\d\"\n",
	"expected two hex":                  "a = \"\\xg\"\n",
	"expected four hex":                 "a = \"\\ug\"\n",
	"expected eight hex":                "a = \"\\Ug\"\n",
	"Escaped character":                 "a = \"\\ud800\"\n",
	"TOML files cannot contain control": "a = '\x01'\n",
	"invalid UTF-8":                     "a = '\xff'\n",
	"files cannot contain NULL":         "a\x00\x00= 1\n",
	"expected '.' or '='":               "06:2b = 1\n",
	"expected '.' or ']'":               "[06:2b]\n",
	"expected end of table array":       "[[a]\n",
	"unexpected end of table name":      "[]\n",
	"unexpected table separator":        "[.a]\n",
	"unexpected '":                      "= 1\n",
	"unexpected comma":                  "a = [1,,2]\n",
	"expected a comma":                  "a = [1 2]\n",
	"expected a top-level item":         "a = 1 b = 2\n",
	"Key '":                             "a = 1\na = 2\n",
}

func parserSays(t *testing.T, text string) string {
	t.Helper()
	var values map[string]any
	_, err := toml.Decode(text, &values)
	var parseErr toml.ParseError
	if !errors.As(err, &parseErr) {
		t.Fatalf("%q: the parser says %v", text, err)
	}
	return parseErr.Message
}

func TestTheParserSaysWhatSyntaxFaultsLookFor(t *testing.T) {
	for _, f := range syntaxFaults {
		text, ok := parserTexts[f.prefix]
		if !ok {
			t.Errorf("no text for %q", f.prefix)
			continue
		}
		if said := parserSays(t, text); !strings.HasPrefix(said, f.prefix) {
			t.Errorf("%q: the parser says %q, which does not begin with %q", text, said, f.prefix)
		}
	}
	for text, part := range map[string]string{
		"a = 99999999999999999999\n": " is out of range for ",
		"a = 1e999\n":                " is out of range for ",
		"[a\nb = 1\n":                `got '\n' instead`,
		"[[a]\nb = 1\n":              `got '\n' instead`,
	} {
		if said := parserSays(t, text); !strings.Contains(said, part) {
			t.Errorf("%q: the parser says %q, which does not hold %q", text, said, part)
		}
	}
}
