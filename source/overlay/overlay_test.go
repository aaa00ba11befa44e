package overlay

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
)

var noon = Stamp{Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), By: "uid 0"}

func open(t testing.TB, dir string) *Overlay {
	t.Helper()
	o, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func commit(t testing.TB, d *Draft) {
	t.Helper()
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
}

func load(t testing.TB, o *Overlay) *build.Fragment {
	t.Helper()
	f, err := o.Load(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func texts(values map[string]tree.Value) map[string]string {
	m := map[string]string{}
	for name, v := range values {
		m[name] = string(v.Bytes)
	}
	return m
}

func TestWithoutAFileItStatesNothing(t *testing.T) {
	dir := t.TempDir()
	f := load(t, open(t, dir))
	if !f.RunTime || len(f.Options)+len(f.Tags)+len(f.Leaves)+len(f.Removed) > 0 {
		t.Errorf("%+v", f)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("opening it writes %v (%v)", entries, err)
	}
}

func TestChangesOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	o := open(t, dir)
	d := o.Draft("")
	binary := "\x00\xff\n"
	d.Set(Options, "http-tokens", []byte("required"), noon)
	d.Set(Tags, "Name", []byte("web-2"), noon)
	d.Set(Tags, "Empty", nil, noon)
	d.Set(Values, "meta-data/ami-id", []byte(binary), noon)
	d.Set(Values, "meta-data/mac", []byte("x"), noon)
	d.Remove(Tags, "Old", noon)
	d.Remove(Values, "meta-data/spot", noon)
	commit(t, d)
	d = o.Draft("")
	if !d.Reset(Values, "meta-data/mac") || d.Reset(Values, "meta-data/nothing") {
		t.Error("Reset does not tell whether there was anything")
	}
	commit(t, d)

	for name, o := range map[string]*Overlay{"running": o, "opened again": open(t, dir)} {
		t.Run(name, func(t *testing.T) {
			f := load(t, o)
			slices.Sort(f.Removed)
			for what, c := range map[string]struct{ got, want map[string]string }{
				"options": {texts(f.Options), map[string]string{"http-tokens": "required"}},
				"tags":    {texts(f.Tags), map[string]string{"Name": "web-2", "Empty": ""}},
				"values":  {texts(f.Leaves), map[string]string{"meta-data/ami-id": binary}},
			} {
				if !maps.Equal(c.got, c.want) {
					t.Errorf("%s: %q, want %q", what, c.got, c.want)
				}
			}
			if want := []string{"meta-data/spot", "meta-data/tags/instance/Old"}; !slices.Equal(f.Removed, want) {
				t.Errorf("removed %q, want %q", f.Removed, want)
			}
			v := f.Options["http-tokens"]
			if got := v.Origin.String(); got != "set at run time, 2026-03-01T12:00:00Z, by uid 0" || !v.Mtime.Equal(noon.Time) {
				t.Errorf("origin %q at %v", got, v.Mtime)
			}
			if e := o.Entries("", Values)["meta-data/spot"]; !e.Removed || e.By != "uid 0" || !e.Time.Equal(noon.Time) {
				t.Errorf("entry %+v", e)
			}
		})
	}
}

func TestADraftIsNotInForceUntilItIsCommitted(t *testing.T) {
	dir := t.TempDir()
	o := open(t, dir)
	d := o.Draft("")
	d.Set(Tags, "Name", []byte("a"), noon)
	if got := texts(d.Fragment().Tags); got["Name"] != "a" {
		t.Errorf("the draft states %q", got)
	}
	if got := load(t, o).Tags; len(got) > 0 {
		t.Errorf("in force before Commit: %v", got)
	}
	if got := load(t, open(t, dir)).Tags; len(got) > 0 {
		t.Errorf("on disk before Commit: %v", got)
	}
	commit(t, d)
	entries := o.Entries("", Tags)
	delete(entries, "Name")
	if _, ok := o.Entries("", Tags)["Name"]; !ok {
		t.Error("whoever asks for entries can change them")
	}
}

func TestAChangeThatCannotBeKeptIsNotInForce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	o := open(t, dir)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	d := o.Draft("")
	d.Set(Values, "user-data", []byte(planted), noon)
	err := d.Commit()
	if err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("the error does not name the place: %v", err)
	}
	wantNoSecret(t, err)
	if got := load(t, o).Leaves; len(got) > 0 {
		t.Errorf("in force: %v", texts(got))
	}
}

func TestTheFileIsTheOwnersAlone(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir).Draft("")
	d.Set(Options, "http-tokens", []byte("required"), noon)
	commit(t, d)
	commit(t, d)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("more than one file: %v %v", entries, err)
	}
	info, err := entries[0].Info()
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v (%v)", info.Mode(), err)
	}
}

// planted stands for a secret key; also as JSON holds it.
const planted = "wJalrXUtnFEMI-planted-secret"

func wantNoSecret(t testing.TB, err error) {
	t.Helper()
	for _, secret := range []string{planted, planted[:12], base64.StdEncoding.EncodeToString([]byte(planted))[:12]} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error holds the secret: %v", err)
		}
	}
}

func TestADamagedFileIsRefusedClearly(t *testing.T) {
	var whole []byte
	{
		dir := t.TempDir()
		d := open(t, dir).Draft("")
		d.Set(Values, "meta-data/iam/security-credentials/role", []byte(planted), noon)
		commit(t, d)
		var err error
		if whole, err = os.ReadFile(filepath.Join(dir, fileName)); err != nil {
			t.Fatal(err)
		}
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(planted))
	if !strings.Contains(string(whole), encoded) {
		t.Fatalf("the test plants nothing: %s", whole)
	}
	replaced := func(old, with string) string { return strings.Replace(string(whole), old, with, 1) }
	const damaged = "not written by imdsfs, or damaged: restore it, or move it away"
	for name, c := range map[string]struct{ text, want string }{
		"empty":             {"", damaged},
		"zeros":             {strings.Repeat("\x00", 4096), damaged},
		"cut":               {string(whole[:len(whole)/2]), damaged},
		"cut by a brace":    {strings.TrimSuffix(strings.TrimSpace(string(whole)), "}"), damaged},
		"something behind":  {string(whole) + string(whole[:40]), damaged},
		"no JSON":           {planted, damaged},
		"a string":          {`"` + planted + `"`, damaged},
		"bad base64":        {replaced(encoded, planted+"!"), damaged},
		"a value of a kind": {replaced(`"`+encoded+`"`, `{"`+planted+`": 1}`), damaged},
		"unknown field":     {replaced(`"by"`, `"`+planted+`"`), damaged},
		"bad time":          {replaced("2026-03-01T12:00:00Z", planted), damaged},
		"format 3":          {replaced(`"format": 2`, `"format": 3`), "format 3, and this version reads 1 and 2"},
		"null":              {"null", "format 0, and this version reads 1 and 2"},
		"format 1 of 2":     {replaced(`"format": 2`, `"format": 1`), damaged},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, fileName)
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Open(dir)
			if err == nil || !strings.HasPrefix(err.Error(), path+": ") || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %s: …%s", err, path, c.want)
			}
			wantNoSecret(t, err)
			if after, err := os.ReadFile(path); err != nil || string(after) != c.text {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}

func TestAFileThatIsTooLongIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, fileName)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(maxFile + 1); err != nil { // a sparse file
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v", err)
	}
}

func TestAnUnreadableFileIsAnError(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, fileName), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"format":1}`))
	f.Add([]byte(`{"format":1,"options":{"http-tokens":{"value":"cmVxdWlyZWQ=","time":"2026-03-01T12:00:00Z","by":"uid 0"}}}`))
	f.Add([]byte(`{"format":1,"tags":{"a":{"removed":true,"time":"2026-03-01T12:00:00Z","by":""}},"values":null}`))
	f.Add([]byte(`{"format":1} {`))
	f.Add([]byte(`{"format":2,"instances":{"i-1":{"tags":{"a":{"time":"2026-03-01T12:00:00Z","by":""}}},"":{},"i-2":null}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := parse(text)
		if err != nil {
			if len(err.Error()) > 200 {
				t.Errorf("an error of %d bytes: does it quote the file?", len(err.Error()))
			}
			return
		}
		s.of("").fragment()
		ours := (&Overlay{state: s}).Draft("").state
		again, err := ours.text()
		if err != nil {
			return // a time that RFC 3339 does not know; Commit reports it
		}
		s2, err := parse(again)
		if err != nil {
			t.Fatalf("what was read is written as %s and then refused: %v", again, err)
		}
		for _, k := range Kinds() {
			for id := range ours.instances {
				if len(ours.of(id).kind(k)) != len(s2.of(id).kind(k)) {
					t.Errorf("%s of %q: %d entries, and %d when written and read", k, id, len(ours.of(id).kind(k)), len(s2.of(id).kind(k)))
				}
			}
		}
	})
}
