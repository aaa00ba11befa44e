package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

var update = flag.Bool("update", false, "write the golden files anew from what is served")

// listingName is the golden file of a directory's listing; no path of the tree is called so.
const listingName = "_listing_"

// goldenName is the file name for a path: module archives take no colon.
func goldenName(path string) string { return strings.ReplaceAll(path, ":", "%3A") }

// Every listing and leaf of the instance that is made after captures of a real m5, byte for byte.
func TestGoldenInstance(t *testing.T) {
	const golden = "../../testdata/golden/m5-two-interfaces"
	d := serve(t, instances+"/m5-two-interfaces.toml", false)
	served := map[string]string{listingName: d.ask("GET", "/").body}
	for path, p := range crawl(t, d) {
		version := strings.SplitN(path, "/", 3)
		if len(version) < 2 || version[1] != "latest" && version[1] != "2016-09-02" {
			continue
		}
		name := strings.TrimPrefix(path, "/")
		if p.dir {
			name += "/" + listingName
			p.body = d.ask("GET", path).body
		}
		served[goldenName(name)] = p.body
	}
	if *update {
		if err := os.RemoveAll(golden); err != nil {
			t.Fatal(err)
		}
		for name, body := range served {
			path := filepath.Join(golden, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	seen := 0
	err := filepath.WalkDir(golden, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		seen++
		name, err := filepath.Rel(golden, path)
		if err != nil {
			return err
		}
		body, ok := served[name]
		if want := kit.ReadFile(t, path); !ok || body != want {
			t.Errorf("%s: served %q (there: %v), golden %q", name, body, ok, want)
		}
		delete(served, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range served {
		t.Errorf("%s is served, but there is no golden file of it", name)
	}
	if seen < 100 {
		t.Errorf("only %d golden files", seen)
	}
}
