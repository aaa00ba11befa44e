package main

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

func check(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(append([]string{"check"}, args...), &out, &errs)
	return out.String(), errs.String(), code
}

// Each faulty line of the file ends in "# fault: KEY".
func TestCheckReportsTwelveFaultsAtOnce(t *testing.T) {
	const file = instances + "/faulty/twelve.toml"
	want := map[string]bool{}
	for i, line := range strings.Split(kit.ReadFile(t, file), "\n") {
		if _, key, ok := strings.Cut(line, "# fault: "); ok && !strings.HasPrefix(line, "#") {
			want[fmt.Sprintf("%s:%d: %s: ", file, i+1, key)] = true
		}
	}
	stdout, stderr, code := check(t, file)
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	if code != exitInvalid || stdout != "" || len(want) != 12 || len(lines) != 12 {
		t.Errorf("exit code %d, %d faults of %d, standard output %q\n%s", code, len(lines), len(want), stdout, stderr)
	}
	for at := range want {
		if !slices.ContainsFunc(lines, func(line string) bool {
			text, ok := strings.CutPrefix(line, "imdsfs: error: "+at)
			return ok && text != ""
		}) {
			t.Errorf("no fault at %s", at)
		}
	}
}

func TestCheckShowsTheProvenanceOfEveryLeafAndNoSecret(t *testing.T) {
	column := regexp.MustCompile(`  +`)
	for name, file := range instanceFiles(t) {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, code := check(t, file)
			if code != 0 || stderr != "" {
				t.Fatalf("exit code %d: %s", code, stderr)
			}
			shown := map[string]bool{}
			for line := range strings.Lines(stdout) {
				fields := column.Split(strings.TrimSpace(line), -1)
				if len(fields) < 3 {
					continue
				}
				origin := fields[len(fields)-1]
				if !strings.HasPrefix(origin, file+":") && !strings.HasPrefix(origin, "derived from ") && !strings.HasPrefix(origin, "default") {
					t.Errorf("no provenance: %s", line)
				}
				shown[fields[0]] = true
			}
			d := serve(t, file, false)
			secrets := 0
			for path, p := range crawl(t, d) {
				path, ok := strings.CutPrefix(path, "/latest/")
				if !ok || p.dir {
					continue
				}
				if !shown[path] {
					t.Errorf("%s is served, but not shown", path)
				}
				delete(shown, path)
				if path == "user-data" || strings.Contains(path, "security-credentials/") {
					secrets++
					for _, word := range strings.Fields(p.body) {
						word = strings.Trim(word, `",`)
						if len(word) > 15 && !strings.HasPrefix(word, "20") && strings.Contains(stdout, word) {
							t.Errorf("%q of %s is shown", word, path)
						}
					}
				}
			}
			for _, path := range slices.Sorted(maps.Keys(shown)) {
				if !strings.HasPrefix(path, "instance.") && !strings.HasPrefix(path, "metadata-options.") {
					t.Errorf("%s is shown, but not served", path)
				}
			}
			if name == "us-east-1-role" && secrets < 3 {
				t.Errorf("only %d secrets seen", secrets)
			}
		})
	}
}
