package tomlfile

import (
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const manPage = "../../contrib/package/imdsfs.toml.5"

// A manTable is a subsection of KEYS of the man page: what it says by itself, and of each key.
type manTable struct {
	text string
	keys map[string]string
}

// manTables are the tables that the man page explains, by their headers; user-data stands above the first.
func manTables(t *testing.T) map[string]manTable {
	t.Helper()
	page, err := os.ReadFile(manPage)
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(strings.ReplaceAll(string(page), `\-`, "-"), "\n.SH KEYS\n")
	if !found {
		t.Fatalf("%s has no section KEYS", manPage)
	}
	text, _, _ = strings.Cut(text, "\n.SH ")
	tables := map[string]manTable{}
	for _, section := range strings.Split("\n"+text, "\n.SS ")[1:] {
		header, body, _ := strings.Cut(section, "\n")
		entries := strings.Split("\n"+body, "\n.TP\n")
		table := manTable{text: strings.TrimSpace(entries[0]), keys: map[string]string{}}
		for _, entry := range entries[1:] {
			tag, body, _ := strings.Cut(entry, "\n")
			macro, names, _ := strings.Cut(tag, " ")
			if macro != ".B" && macro != ".BR" {
				t.Errorf("%s: the tag %q is not of a key", header, tag)
			}
			for name := range strings.FieldsSeq(strings.ReplaceAll(names, `", "`, " ")) {
				if table.keys[name] != "" {
					t.Errorf("%s explains %s twice", header, name)
				}
				table.keys[name] = strings.TrimSpace(body)
			}
		}
		tables[header] = table
	}
	return tables
}

// The man page and the schema know the same tables and the same keys. Of each key the page gives the type first, and the
// default at the end.
func TestManPageExplainsEveryKeyAndNoOther(t *testing.T) {
	want := map[string][]string{"User-data": userDataKeys}
	for _, name := range schema[""] {
		switch name {
		case "credentials":
			want["[credentials.NAME]"] = schema["credentials.NAME"]
		case "access":
			want["[[access]]"] = schema["access"]
		default:
			if !slices.Contains(userDataKeys, name) {
				want["["+name+"]"] = schema[name] // none where any key may stand
			}
		}
	}
	got := manTables(t)
	if have, want := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)); !slices.Equal(have, want) {
		t.Fatalf("the man page explains %v, the schema has %v", have, want)
	}
	kind := regexp.MustCompile(`^(String|Array of strings|Boolean|Integer|Date|String or integer)[.,]`)
	for header, table := range got {
		if table.text == "" {
			t.Errorf("the man page says nothing of %s itself", header)
		}
		if have, want := slices.Sorted(maps.Keys(table.keys)), slices.Sorted(slices.Values(want[header])); !slices.Equal(have, want) {
			t.Errorf("of %s the man page explains %v, the schema has %v", header, have, want)
		}
		for key, text := range table.keys {
			if !kind.MatchString(text) {
				t.Errorf("%s %s: the man page does not start with the type, but with %.30q", header, key, text)
			}
			if !strings.Contains(text+table.text, "\nDefault: ") {
				t.Errorf("%s %s: the man page gives no default", header, key)
			}
		}
	}
}

// No line holds a macro that man(7) does not have, or leaves the font changed. Where groff is installed, it has no
// warning either.
func TestManPageIsWellFormed(t *testing.T) {
	page, err := os.ReadFile(manPage)
	if err != nil {
		t.Fatal(err)
	}
	macro := regexp.MustCompile(`^\.(TH|SH|SS|TP|PP|B|BR|I|br|EX|EE)( |$)`)
	font := regexp.MustCompile(`\\f.`)
	for i, line := range strings.Split(strings.TrimSuffix(string(page), "\n"), "\n") {
		fonts := font.FindAllString(line, -1)
		switch {
		case strings.HasPrefix(line, ".") && !macro.MatchString(line):
			t.Errorf("%s:%d: unknown macro: %s", manPage, i+1, line)
		case strings.HasPrefix(line, "'"):
			t.Errorf("%s:%d: starts with what groff takes for a request: %s", manPage, i+1, line)
		case len(fonts) > 0 && !strings.HasPrefix(line, ".") && fonts[len(fonts)-1] != `\fR`:
			t.Errorf("%s:%d: ends in the font %s", manPage, i+1, fonts[len(fonts)-1])
		case strings.TrimRight(line, " ") != line:
			t.Errorf("%s:%d: ends with a blank", manPage, i+1)
		}
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Log("groff is not installed")
		return
	}
	cmd := exec.Command(groff, "-ww", "-z", "-Tutf8", "-man", manPage)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff: %v\n%s", err, out)
	}
}
