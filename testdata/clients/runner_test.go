package clients

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite golden/ and README.md after what the clients do now")

// modes are the values of http-tokens.
var modes = []string{"optional", "required"}

// TestClients runs every client of the table in both modes, each in a world of its own: it has to get
// what it wants, or be refused if it knows no tokens and they are required, with the exchanges that its
// golden file lists.
func TestClients(t *testing.T) {
	binary(t)
	table := clients(t)
	done := map[string]row{}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			for _, file := range c.needs {
				requireFile(t, file)
			}
			r := row{client: c, version: c.version(t), results: map[string]string{}}
			exchanges := map[string][]exchange{}
			for _, mode := range modes {
				t.Run(mode, func(t *testing.T) {
					exchanges[mode] = c.run(t, mode)
					r.results[mode] = result(exchanges[mode])
				})
			}
			if t.Failed() || len(r.results) < len(modes) {
				return
			}
			compareGolden(t, filepath.Join("golden", c.name+".txt"), golden(exchanges))
			done[c.name] = r
		})
	}
	if !t.Failed() {
		compareReadme(t, table, done)
	}
}

// run runs the client and checks what it prints. It returns the exchanges.
func (c client) run(t *testing.T, mode string) []exchange {
	w := newWorld(t, instance(t, mode, c.versions))
	stdout, stderr, err := w.run(c.command)
	all := w.exchanges()
	if t.Failed() {
		return nil
	}
	if c.v1Only && mode == "required" {
		for _, e := range all {
			if e.status != 401 {
				t.Errorf("%s, want 401", e)
			}
		}
		for _, want := range c.want {
			if strings.Contains(stdout, want) {
				t.Errorf("it was not refused: prints %q", want)
			}
		}
	} else {
		if err != nil {
			t.Errorf("it fails: %v", err)
		}
		for _, want := range c.want {
			if !strings.Contains(stdout, want) {
				t.Errorf("what it prints lacks %q", want)
			}
		}
	}
	if len(all) == 0 {
		t.Error("it asked nothing")
	}
	if t.Failed() {
		t.Logf("%s\nprints\n%s%s\nafter\n%s", strings.Join(c.command, " "), stdout, stderr, lines(all))
	}
	return all
}

// instance is a copy of the instance file with the options given.
func instance(t *testing.T, tokens, versions string) string {
	t.Helper()
	text, err := os.ReadFile(withTokens(t, tokens))
	if err != nil {
		t.Fatal(err)
	}
	if versions != "" {
		list := `versions = ["` + strings.ReplaceAll(versions, ",", `", "`) + `"]`
		text = []byte(strings.Replace(string(text), "\n[instance]\n", "\n[instance]\n"+list+"\n", 1))
	}
	path := filepath.Join(t.TempDir(), "instance.toml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// result says in a few words how a client fared.
func result(all []exchange) string {
	with := map[string]bool{}
	for _, e := range all {
		switch {
		case e.status != 200 || e.method == "PUT":
		case e.token:
			with["IMDSv2"] = true
		default:
			with["IMDSv1"] = true
		}
	}
	if len(with) == 0 {
		return "refused (401)"
	}
	return "served, " + strings.Join(slices.Sorted(maps.Keys(with)), " and ")
}

// golden is the text of a golden file: what is asked in each mode, in order, repetitions left out.
func golden(exchanges map[string][]exchange) string {
	if lines(exchanges["optional"]) == lines(exchanges["required"]) {
		return "# http-tokens optional and required\n" + lines(exchanges["optional"])
	}
	var b strings.Builder
	for _, mode := range modes {
		b.WriteString("# http-tokens " + mode + "\n" + lines(exchanges[mode]))
	}
	return b.String()
}

func lines(exchanges []exchange) string {
	var b strings.Builder
	seen := map[exchange]bool{}
	for _, e := range exchanges {
		if !seen[e] {
			b.WriteString(e.String() + "\n")
		}
		seen[e] = true
	}
	return b.String()
}

func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; -update writes it", err)
	}
	if got != string(want) {
		t.Errorf("its requests are other ones than those of %s (-update rewrites it after review):\n%s", path, difference(string(want), got))
	}
}

// difference lists the lines that only one of two texts has.
func difference(want, got string) string {
	var b strings.Builder
	only := func(mark, text, other string) {
		there := map[string]bool{}
		for line := range strings.Lines(other) {
			there[line] = true
		}
		for line := range strings.Lines(text) {
			if !there[line] {
				b.WriteString(mark + line)
			}
		}
	}
	only("- ", want, got)
	only("+ ", got, want)
	if b.Len() == 0 {
		return "the same in another order"
	}
	return b.String()
}

// Every golden file belongs to a client.
func TestGoldenFilesAreOfClients(t *testing.T) {
	known := map[string]bool{}
	for _, c := range clients(t) {
		if known[c.name] {
			t.Errorf("two clients are named %s", c.name)
		}
		known[c.name] = true
	}
	files, err := filepath.Glob("golden/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !known[strings.TrimSuffix(filepath.Base(file), ".txt")] {
			t.Errorf("%s is of no client", file)
		}
	}
}

// goModule is the version of a module that go.mod requires.
func goModule(path string) func(*testing.T) string {
	return func(t *testing.T) string {
		text, err := os.ReadFile("go.mod")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[0] == path {
				return fields[1]
			}
		}
		t.Fatalf("go.mod does not require %s", path)
		return ""
	}
}

// npm is the version of a package in node_modules.
func npm(name string) func(*testing.T) string {
	return func(t *testing.T) string {
		text, err := os.ReadFile("node_modules/" + name + "/package.json")
		if err != nil {
			t.Fatal(err)
		}
		var p struct{ Version string }
		if err := json.Unmarshal(text, &p); err != nil {
			t.Fatal(err)
		}
		return p.Version
	}
}
