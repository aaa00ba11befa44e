package tomlfile

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source/build"
)

func TestSyntaxFaults(t *testing.T) {
	tests := map[string]struct {
		text string
		want faultWant
	}{
		"unquoted value":       {"[instance]\nplatform = ec2\n", faultWant{2, "", "put text in quotes"}},
		"unquoted version":     {"[meta-data]\nx = 1.2.3\n", faultWant{2, "", "not a valid number"}},
		"unquoted address":     {"[meta-data]\nx = 10.0.0.1\n", faultWant{2, "", "not a valid number"}},
		"unquoted date":        {"x = 2026-13-01\n", faultWant{1, "", "not a valid date"}},
		"number out of range":  {"x = 99999999999999999999\n", faultWant{1, "", "out of range"}},
		"unquoted MAC":         {"[meta-data]\n06:2b:3c:4d:5e:6f = 1\n", faultWant{2, "", "put such keys in quotes"}},
		"unquoted MAC, header": {"\n[meta-data.06:2b:3c:4d:5e:6f]\n", faultWant{2, "", "put such names in quotes"}},
		"no value":             {"a = 1\nb =\n", faultWant{2, "", "not a value"}},
		"no key":               {"= 1\n", faultWant{1, "", "not a key"}},
		"open string":          {"a = \"x\nb = 1\n", faultWant{1, "", "not closed on its line"}},
		"open long string":     {"a = 1\nb = \"\"\"\n\n[c]\nd = 1\n", faultWant{2, "", "never closed"}},
		"open literal string":  {"a = '''\n\n", faultWant{1, "", "never closed"}},
		"open array":           {"a = 1\nb = [\n1,\n", faultWant{2, "", "never closed"}},
		"open table":           {"a = 1\nb = { c = 1,\n", faultWant{2, "", "never closed"}},
		"open header":          {"a = 1\n[b\nc = 1\n", faultWant{2, "", "a table header is not closed"}},
		"open array header":    {"a = 1\n[[b]\nc = 1\n", faultWant{2, "", "a table header is not closed"}},
		"empty header":         {"[]\n", faultWant{1, "", "without a name"}},
		"escape":               {"a = 'x'\nb = \"C:\\dir\"\n", faultWant{2, "", `put text with backslashes in '…'`}},
		"key twice":            {"[instance]\nplatform = 'ec2'\n\nplatform = 'ec2'\n", faultWant{4, "instance.platform", "given twice (it is already on line 2)"}},
		"table twice":          {"[tags]\na = 'b'\n[instance]\n[tags]\n", faultWant{4, "tags", "given twice (it is already on line 1)"}},
		"key and table":        {"tags = 'x'\n[tags]\na = 1\n", faultWant{2, "tags", "line 1"}},
		"leaf and directory":   {"a = 1\na.b = 1\n", faultWant{2, "", "clashes"}},
		"two on a line":        {"a = 1 b = 2\n", faultWant{1, "", "more text after the value"}},
		"no comma":             {"a = [1\n2]\n", faultWant{2, "", "a comma or the closing bracket"}},
		"commas":               {"a = [1,,2]\n", faultWant{1, "", "a comma too many"}},
		"not UTF-8":            {"a = 1\nb = '\xff'\n", faultWant{2, "", "not UTF-8"}},
		"UTF-16":               {"\xff\xfea\x00=\x001\x00", faultWant{1, "", "not UTF-8"}},
		"control character":    {"a = 1\nb = '\x00'\n", faultWant{2, "", "control character"}},
		"trailing backslash":   {`a = "\`, faultWant{1, "", ""}},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) { wantFaults(t, c.text, c.want) })
	}
}

// FuzzDecode shows that no text makes decode panic, that each fault has a line of the text, and that
// what is decoded keeps the promises that the tree counts on.
func FuzzDecode(f *testing.F) {
	for _, text := range seeds(f) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, err := decode("web-1.toml", text, time.Unix(1, 0))
		lines := 1 + strings.Count(text, "\n")
		checkPlace := func(place string) {
			line, ok := strings.CutPrefix(place, "web-1.toml:")
			if n, err := strconv.Atoi(line); !ok || err != nil || n < 1 || n > lines {
				t.Fatalf("place %q in a text of %d lines", place, lines)
			}
		}
		for _, fault := range faultsOf(t, err) {
			checkPlace(fault.Place)
			if fault.Text == "" {
				t.Fatalf("%+v says nothing", fault)
			}
		}
		if err != nil {
			return
		}
		for path, v := range file.Fragment.Leaves {
			checkPlace(v.Origin.Place)
			for name := range strings.SplitSeq(path, "/") {
				if name == "" || name == "." || name == ".." || len(name) > maxNameBytes || strings.ContainsAny(name, "\n\x00") {
					t.Fatalf("path %q", path)
				}
			}
		}
		for _, v := range file.Fragment.Instance {
			checkPlace(v.Origin.Place)
		}
		for _, place := range file.Server.Places {
			checkPlace(place)
		}
		// The whole way: bad input may be refused, but nothing may panic.
		_, _ = build.Build(nil, build.Env{Now: time.Unix(2, 0)}, file.Fragment)
	})
}
