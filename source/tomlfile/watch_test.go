package tomlfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// replace writes a file as careful programs do.
func replace(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// watched is a source that tells of changes.
type watched struct {
	*Source
	t    *testing.T
	told chan struct{}
}

func newWatched(t *testing.T, path string) *watched {
	return &watched{New(path, nil), t, make(chan struct{}, 100)}
}

func (w *watched) watch() {
	w.t.Helper()
	if err := w.Watch(w.t.Context(), func() { w.told <- struct{}{} }, func(err error) { w.t.Errorf("warned: %v", err) }); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watched) noticed(what string) {
	w.t.Helper()
	select {
	case <-w.told:
	case <-time.After(kit.Patience):
		w.t.Fatalf("not noticed: %s", what)
	}
}

// id loads, and returns the instance id, "" on an error.
func (w *watched) id() string {
	w.t.Helper()
	f, err := w.Load(w.t.Context())
	if err != nil {
		return ""
	}
	return string(f.Leaves["meta-data/instance-id"].Bytes)
}

const good = "[meta-data]\ninstance-id = 'i-0a1b2c3d4e5f67890'\n"

// What Read has read is what the next Load returns, and only that.
func TestLoadTakesWhatReadHasRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web.toml")
	replace(t, path, good)
	w := newWatched(t, path)
	file, err := w.Read()
	if err != nil {
		t.Fatal(err)
	}
	replace(t, path, "[meta-data]\ninstance-id = 'i-00000000000000002'\n")
	if got := w.id(); got != string(file.Fragment.Leaves["meta-data/instance-id"].Bytes) {
		t.Errorf("the fragment is of another text: %s", got)
	}
	w.watch()
	w.noticed("the change between reading and watching")
	if got := w.id(); got != "i-00000000000000002" {
		t.Errorf("the second load gives %q", got)
	}
}

// A file that was no TOML when it was read, and is good before it is watched, is noticed.
func TestAFileThatBecomesGoodBeforeItIsWatchedIsNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web.toml")
	for name, text := range map[string]string{"empty": "", "half written": "[meta-data", "missing": "-"} {
		t.Run(name, func(t *testing.T) {
			if os.Remove(path); text != "-" {
				replace(t, path, text)
			}
			w := newWatched(t, path)
			if _, err := w.Read(); err == nil {
				t.Fatal("it is good")
			}
			replace(t, path, good)
			if got := w.id(); got != "" {
				t.Errorf("Load has read again: %q", got)
			}
			w.watch()
			w.noticed("that it is good now")
			if got := w.id(); got == "" {
				t.Error("it is not read again")
			}
		})
	}
}

// While the file is faulty, the files that it named are still watched, and no change is told twice.
func TestAFaultyFileIsWatchedAndWhatItNamed(t *testing.T) {
	dir := t.TempDir()
	path, data := filepath.Join(dir, "web.toml"), filepath.Join(dir, "user-data")
	replace(t, data, "one")
	replace(t, path, "user-data-file = 'user-data'\n"+good)
	w := newWatched(t, path)
	w.id()
	w.watch()
	replace(t, path, "[meta-data")
	w.noticed("the fault")
	var faults problem.Faults
	if _, err := w.Load(t.Context()); !errors.As(err, &faults) {
		t.Fatalf("the error is %v", err)
	}
	replace(t, data, "two")
	w.noticed("the change of a file that the good one named")
	w.id()
	replace(t, path, "user-data-file = 'user-data'\n"+good)
	w.noticed("that it is good again")
	if f, err := w.Load(t.Context()); err != nil || string(f.Leaves["user-data"].Bytes) != "two" {
		t.Errorf("%v", err)
	}
	if n := len(w.told); n != 0 {
		t.Errorf("told %d times more", n)
	}
}
