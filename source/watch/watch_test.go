package watch

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// Each way in which editors, configuration management and Kubernetes change a file.
func TestWatcherNoticesEveryKindOfChange(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		// set-up makes the file and returns the path to watch; change changes what is read there.
		setUp  func(dir string) string
		change func(dir string)
	}{
		"written in place": {
			func(dir string) string { rewrite(t, dir+"/f", "a"); return dir + "/f" },
			func(dir string) { must(os.WriteFile(dir+"/f", []byte("bb"), 0o600)) },
		},
		"replaced by rename": {
			func(dir string) string { rewrite(t, dir+"/f", "a"); return dir + "/f" },
			func(dir string) { rewrite(t, dir+"/f", "b") },
		},
		"moved away, then written, as vim does": {
			func(dir string) string { rewrite(t, dir+"/f", "a"); return dir + "/f" },
			func(dir string) {
				must(os.Rename(dir+"/f", dir+"/f~"))
				rewrite(t, dir+"/f", "b")
				must(os.Remove(dir + "/f~"))
			},
		},
		"made where there was none": {
			func(dir string) string { return dir + "/f" },
			func(dir string) { rewrite(t, dir+"/f", "b") },
		},
		"touched": {
			func(dir string) string { rewrite(t, dir+"/f", "a"); return dir + "/f" },
			func(dir string) { must(os.Chtimes(dir+"/f", time.Time{}, time.Unix(1e9, 0))) },
		},
		"Kubernetes swaps ..data": {
			func(dir string) string {
				for _, v := range []string{"..1", "..2"} {
					must(os.Mkdir(dir+"/"+v, 0o700))
					rewrite(t, dir+"/"+v+"/f", v)
				}
				must(os.Symlink("..1", dir+"/..data"))
				must(os.Symlink("..data/f", dir+"/f"))
				return dir + "/f"
			},
			func(dir string) { must(os.Symlink("..2", dir+"/..tmp")); must(os.Rename(dir+"/..tmp", dir+"/..data")) },
		},
		"a link is given to another owner": {
			func(dir string) string {
				rewrite(t, dir+"/g", "a")
				must(os.Symlink("g", dir+"/f"))
				return dir + "/f"
			},
			func(dir string) { must(os.Lchown(dir+"/f", os.Getuid(), os.Getgid())) },
		},
		"behind links to another folder": {
			func(dir string) string {
				must(os.MkdirAll(dir+"/srv/conf", 0o700))
				rewrite(t, dir+"/srv/conf/f", "a")
				must(os.Symlink(dir+"/srv", dir+"/link"))
				must(os.Symlink("../"+filepath.Base(dir)+"/link/conf/f", dir+"/f"))
				return dir + "/f"
			},
			func(dir string) { rewrite(t, dir+"/srv/conf/f", "b") },
		},
		"the folder is made anew": {
			func(dir string) string {
				must(os.Mkdir(dir+"/conf", 0o700))
				rewrite(t, dir+"/conf/f", "a")
				return dir + "/conf/f"
			},
			func(dir string) {
				must(os.RemoveAll(dir + "/conf"))
				must(os.Mkdir(dir+"/conf", 0o700))
				rewrite(t, dir+"/conf/f", "b")
			},
		},
	} {
		for _, watched := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, watched %v", name, watched), func(t *testing.T) {
				dir := t.TempDir()
				path := c.setUp(dir)
				told := make(chan struct{}, 100) // changed must not block
				w, err := New(t.Context(), func() { told <- struct{}{} }, func(err error) { t.Errorf("warned: %v", err) })
				if err != nil {
					t.Fatal(err)
				}
				marks := Marks{}
				marks.Add(path)
				if watched {
					w.Follow(marks)
				}
				select {
				case <-told:
					t.Error("nothing changed, but it was told")
				default:
				}
				c.change(dir)
				want := identify(path)
				if !watched {
					w.Follow(marks) // what came between reading and watching
				}
				for seen := (identity{}); seen != want; {
					select {
					case <-told:
					case <-time.After(kit.Patience):
						t.Fatal("not noticed")
					}
					seen = identify(path)
				}
			})
		}
	}
}

func TestFoldersOf(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", dir+"/loop"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]string{
		dir + "/a/../f": {dir},
		dir + "//./f":   {dir},
		"/f":            {"/"},
	} {
		if got := foldersOf(path); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	if got := foldersOf(dir + "/loop"); len(got) != maxLinks+1 {
		t.Errorf("a loop of links gives %d folders", len(got))
	}
}

// rewrite replaces a file, as careful programs do.
func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// follow watches a file, and returns a channel that receives for each change.
func follow(t *testing.T, path string) <-chan struct{} {
	t.Helper()
	told := make(chan struct{}, 100)
	w, err := New(t.Context(), func() { told <- struct{}{} }, func(err error) { t.Errorf("warned: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	marks := Marks{}
	marks.Add(path)
	w.Follow(marks)
	return told
}

func noticed(t *testing.T, told <-chan struct{}) {
	t.Helper()
	select {
	case <-told:
	case <-time.After(kit.Patience):
		t.Fatal("not noticed")
	}
}

// Editors that write in place empty the file first: a change counts when nothing more happens.
func TestAFileWrittenInStepsIsOneChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	rewrite(t, path, "a")
	told := follow(t, path)
	rewrite(t, path, "b") // is watched by the time that this is noticed
	noticed(t, told)
	for deadline := time.Now().Add(kit.Patience); ; {
		start := time.Now()
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if _, err := f.WriteString("line\n"); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
		quick := time.Since(start) < settle/2
		noticed(t, told)
		if quick {
			break // else the machine was busy, and a step may have looked like the last
		}
		if time.Now().After(deadline) {
			t.Fatal("this machine is too slow to write 20 lines")
		}
	}
	rewrite(t, path, "c") // its notice comes behind all others
	noticed(t, told)
	if n := len(told); n > 0 {
		t.Errorf("20 steps are %d changes more than one", n)
	}
}

// A folder that is not there yet is looked for.
func TestAMissingFolderIsLookedFor(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "conf")
	told := follow(t, filepath.Join(dir, "f"))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	rewrite(t, filepath.Join(dir, "f"), "a")
	noticed(t, told)
}

func TestTheFirstMarkOfAFileCounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	rewrite(t, path, "a")
	marks := Marks{}
	marks.Add(path)
	first := marks[path]
	rewrite(t, path, "b")
	if marks.Add(path); marks[path] != first {
		t.Error("a second mark hides a change since the first")
	}
}
