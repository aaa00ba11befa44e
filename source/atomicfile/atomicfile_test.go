package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Whatever fails, the error names the file that was asked for, and nothing is left beside it.
func TestErrorsNameTheFileThatWasAskedFor(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, path string){
		"no directory": func(t *testing.T, path string) { must(t, os.Remove(filepath.Dir(path))) },
		"a file as directory": func(t *testing.T, path string) {
			must(t, os.Remove(filepath.Dir(path)), os.WriteFile(filepath.Dir(path), nil, 0o600))
		},
		"a directory in place":  func(t *testing.T, path string) { must(t, os.MkdirAll(path+"/full", 0o700)) },
		"a directory beside it": func(t *testing.T, path string) { must(t, os.MkdirAll(filepath.Dir(path)+"/.key.new/full", 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "dir", "key")
			must(t, os.Mkdir(filepath.Dir(path), 0o700))
			prepare(t, path)
			for call, write := range map[string]func(string, []byte, os.FileMode) error{"Write": Write, "Create": Create} {
				err := write(path, []byte("text"), 0o600)
				if call == "Create" && name == "a directory beside it" {
					must(t, err)
					continue
				}
				var on *os.PathError
				if !errors.As(err, &on) || on.Path != path || strings.Count(err.Error(), "/key") != 1 || strings.Contains(err.Error(), ".key") {
					t.Errorf("%s: %v", call, err)
				}
			}
			if left, _ := filepath.Glob(filepath.Dir(path) + "/.key[-.]*"); len(left) > 0 && name != "a directory beside it" {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestThoseWhoCreateAtOnceAgree(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	var made sync.Map
	var running sync.WaitGroup
	for i := range 16 {
		running.Go(func() {
			text := strings.Repeat(string(rune('a'+i)), 32)
			switch err := Create(path, []byte(text), 0o600); {
			case err == nil:
				made.Store(text, true)
			case !errors.Is(err, os.ErrExist):
				t.Error(err)
			}
		})
	}
	running.Wait()
	count := 0
	made.Range(func(any, any) bool { count++; return true })
	text, err := Read(path, 64)
	if _, ok := made.Load(string(text)); err != nil || !ok || count != 1 {
		t.Errorf("%d made it; it holds %q (%v)", count, text, err)
	}
	if left, _ := filepath.Glob(filepath.Dir(path) + "/.*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
