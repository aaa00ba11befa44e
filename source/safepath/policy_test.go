package safepath

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

const (
	friend   = 61001 // the user of a daemon
	stranger = 61002
)

// asRoot skips a test that has to give files to others.
func asRoot(t *testing.T) {
	t.Helper()
	kit.Require(t, os.Geteuid() == 0, "root, to give files to other users")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dirOf makes a directory with an owner and a mode.
func dirOf(t *testing.T, path string, uid int, mode os.FileMode) string {
	t.Helper()
	must(t, os.Mkdir(path, 0o700))
	must(t, os.Lchown(path, uid, uid))
	must(t, os.Chmod(path, mode))
	return path
}

func linkOf(t *testing.T, target, path string, uid int) {
	t.Helper()
	must(t, os.Symlink(target, path))
	must(t, os.Lchown(path, uid, uid))
}

func TestPathsThatOthersCanExchangeAreRefused(t *testing.T) {
	asRoot(t)
	top := t.TempDir()
	dirOf(t, top+"/root", 0, 0o755)
	dirOf(t, top+"/root/dir", 0, 0o755)
	dirOf(t, top+"/root/dir/below", 0, 0o755)
	dirOf(t, top+"/friend", friend, 0o755)
	dirOf(t, top+"/friend/dir", friend, 0o755)
	dirOf(t, top+"/stranger", stranger, 0o755)
	dirOf(t, top+"/stranger/dir", 0, 0o755)
	dirOf(t, top+"/open", 0, 0o777)
	dirOf(t, top+"/open/dir", 0, 0o755)
	dirOf(t, top+"/group", 0, 0o775)
	dirOf(t, top+"/group/dir", 0, 0o755)
	dirOf(t, top+"/sticky", 0, os.ModeSticky|0o777)
	dirOf(t, top+"/sticky/ours", 0, 0o755)
	dirOf(t, top+"/sticky/ours/dir", 0, 0o755)
	dirOf(t, top+"/sticky/theirs", stranger, 0o755)
	linkOf(t, "root/dir", top+"/good-link", 0)
	linkOf(t, top+"/root", top+"/absolute-link", 0)
	linkOf(t, "../root/dir/../dir", top+"/root/up-link", 0)
	linkOf(t, "root/dir", top+"/friends-link", friend)
	linkOf(t, "root/dir", top+"/strangers-link", stranger)
	linkOf(t, "stranger/dir", top+"/link-through-stranger", 0)
	linkOf(t, "loop", top+"/loop", 0)
	must(t, os.WriteFile(top+"/root/file", nil, 0o644))

	none, some := Policy{}, Policy{Users: []int{friend}}
	for _, test := range []struct {
		policy Policy
		path   string
		want   string // of the error; "" for none
	}{
		{none, "root/dir", ""},
		{none, "root/./dir/", ""},
		{none, "good-link/below", ""},
		{none, "absolute-link/dir", ""},
		{none, "root/up-link/below", ""},
		{some, "friend/dir", ""},
		{none, "sticky/ours/dir", ""},
		{none, "friend/dir", top + "/friend belongs to uid 61001"},
		{none, "stranger/dir", top + "/stranger belongs to uid 61002"},
		{some, "stranger/dir", top + "/stranger belongs to uid 61002"},
		{none, "open/dir", top + "/open can be written by others (mode 0777)"},
		{none, "group/dir", top + "/group can be written by others (mode 0775)"},
		{none, "sticky", top + "/sticky is writable by others (mode 1777)"},
		{none, "sticky/theirs", top + "/sticky/theirs belongs to uid 61002"},
		{none, "friends-link/below", top + "/friends-link is a symbolic link of uid 61001"},
		{some, "friends-link/below", top + "/friends-link is a symbolic link of uid 61001"},
		{none, "strangers-link", top + "/strangers-link is a symbolic link of uid 61002"},
		{none, "link-through-stranger", top + "/stranger belongs to uid 61002"},
		{none, "loop/dir", "open " + top + "/loop: too many levels of symbolic links"},
		{none, "root/missing", "open " + top + "/root/missing: no such file or directory"},
		{none, "root/file", "open " + top + "/root/file: not a directory"},
		{none, "root/file/below", "open " + top + "/root/file/below: not a directory"},
	} {
		f, err := test.policy.OpenDir(filepath.Join(top, test.path))
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			f.Close()
		}
		if got != test.want {
			t.Errorf("%v %s: error %q, want %q", test.policy, test.path, got, test.want)
		}
	}
}

func TestResolvedPathIsWithoutLinks(t *testing.T) {
	top := t.TempDir()
	must(t, os.MkdirAll(top+"/a/b", 0o755))
	must(t, os.Symlink("a", top+"/l"))
	f, err := Policy{}.OpenDir(top + "/l/b")
	must(t, err)
	defer f.Close()
	if f.Name() != top+"/a/b" {
		t.Errorf("resolved to %s", f.Name())
	}
	dir, name, err := Policy{}.OpenParent(top + "/l/new/")
	must(t, err)
	defer dir.Close()
	if dir.Name() != top+"/a" || name != "new" {
		t.Errorf("parent %s, name %s", dir.Name(), name)
	}
}

func TestMakeDirHasItsModeWhateverTheUmask(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	top := t.TempDir()
	f, err := Policy{}.MakeDir(top+"/x/y/z", 0o750)
	must(t, err)
	f.Close()
	for path, want := range map[string]os.FileMode{"/x": 0o755, "/x/y": 0o755, "/x/y/z": 0o750} {
		info, err := os.Stat(top + path)
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
	}
	f, err = Policy{}.MakeDir(top+"/x/y/z", 0o700)
	must(t, err)
	f.Close()
	if info, _ := os.Stat(top + "/x/y/z"); info.Mode().Perm() != 0o750 {
		t.Errorf("the mode of a directory that was there became %v", info.Mode())
	}
}

func TestMakeDirByTwoAtOnce(t *testing.T) {
	for range 200 {
		path := t.TempDir() + "/shared"
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				f, err := Policy{}.MakeDir(path, 0o700)
				if err != nil {
					t.Error(err)
					return
				}
				defer f.Close()
				if err := os.WriteFile(filepath.Join(path, strconv.Itoa(i)), nil, 0o600); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
}

func TestMakeDirGoesThroughNobodysLink(t *testing.T) {
	asRoot(t)
	top := t.TempDir()
	dirOf(t, top+"/sticky", 0, os.ModeSticky|0o777)
	dirOf(t, top+"/target", 0, 0o755)
	linkOf(t, top+"/target", top+"/sticky/link", stranger)
	if _, err := (Policy{}).MakeDir(top+"/sticky/link/new", 0o755); err == nil {
		t.Error("made below a stranger's link")
	}
	if entries, _ := os.ReadDir(top + "/target"); len(entries) > 0 {
		t.Errorf("%s holds %v", top+"/target", entries)
	}
}

func TestAppendTakesRegularFilesOfOursOnly(t *testing.T) {
	asRoot(t)
	top := t.TempDir()
	must(t, os.WriteFile(top+"/victim", []byte("victim\n"), 0o644))
	must(t, os.Symlink("victim", top+"/link"))
	must(t, unix.Mkfifo(top+"/fifo", 0o600))
	must(t, os.Link(top+"/victim", top+"/hard"))
	must(t, os.WriteFile(top+"/theirs", nil, 0o666))
	must(t, os.Lchown(top+"/theirs", stranger, stranger))
	for name, want := range map[string]string{
		"link": "is a symbolic link", "fifo": "is not a regular file", "hard": "has another name", "theirs": "belongs to uid 61002",
		".": "is not a regular file", "missing/log": "no such file",
	} {
		f, err := Policy{}.OpenAppend(filepath.Join(top, "x", "..")+"/"+name, 0o600)
		if err == nil {
			f.Close()
			t.Errorf("%s was opened", name)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	for range 2 {
		f, err := Policy{}.OpenAppend(top+"/new", 0o600)
		must(t, err)
		_, err = f.WriteString("line\n")
		must(t, err)
		must(t, f.Close())
	}
	if text, _ := os.ReadFile(top + "/new"); string(text) != "line\nline\n" {
		t.Errorf("appended: %q", text)
	}
	if text, _ := os.ReadFile(top + "/victim"); string(text) != "victim\n" {
		t.Errorf("the victim holds %q", text)
	}
}

func TestErrorsAreThoseOfTheSystem(t *testing.T) {
	_, err := Policy{}.OpenDir(t.TempDir() + "/missing")
	if !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, syscall.ENOENT) {
		t.Errorf("%v is not ErrNotExist", err)
	}
	if _, err := (Policy{}).OpenDir("relative"); err == nil {
		t.Error("a relative path was opened")
	}
}

// links notes what each link was found to lead to.
type links map[string]string

func (links) Name(_, _ *Entry) error { return nil }

func (l links) Link(link, target *Entry) error {
	l[link.Path] = target.Path
	return nil
}

func TestLinksAreAskedAboutWithTheirTargets(t *testing.T) {
	top := t.TempDir()
	must(t, os.MkdirAll(top+"/..one/sub", 0o755))
	must(t, os.WriteFile(top+"/..one/file", nil, 0o644))
	must(t, os.Symlink("..one", top+"/..data"))
	must(t, os.Symlink("..data/file", top+"/file"))
	must(t, os.Symlink("file", top+"/again"))
	got := links{}
	f, entry, err := Walk(top+"/again", got)
	must(t, err)
	f.Close()
	if entry.Path != top+"/..one/file" || !entry.IsRegular() {
		t.Errorf("walked to %s", entry.Path)
	}
	want := links{top + "/again": top + "/..one/file", top + "/file": top + "/..one/file", top + "/..data": top + "/..one"}
	for link, target := range want {
		if got[link] != target {
			t.Errorf("%s leads to %q, want %q", link, got[link], target)
		}
	}
	if len(got) != len(want) {
		t.Errorf("asked about %v", got)
	}
}

func TestReopenedFileIsTheOneThatWasLookedAt(t *testing.T) {
	top := t.TempDir()
	must(t, os.WriteFile(top+"/file", []byte("old"), 0o644))
	f, _, err := Walk(top+"/file", Policy{})
	must(t, err)
	defer f.Close()
	must(t, os.Rename(top+"/file", top+"/moved"))
	must(t, os.WriteFile(top+"/file", []byte("new"), 0o644))
	r, err := Reopen(f, unix.O_RDONLY)
	must(t, err)
	defer r.Close()
	text := make([]byte, 8)
	n, _ := r.Read(text)
	if string(text[:n]) != "old" {
		t.Errorf("read %q", text[:n])
	}
}

func TestDepthOfAWalkIsBounded(t *testing.T) {
	top := t.TempDir()
	deep := top + strings.Repeat("/d", maxDepth)
	must(t, os.MkdirAll(deep, 0o755))
	if _, _, err := Walk(deep, Policy{}); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("%d directories: %v", maxDepth, err)
	}
	f, _, err := Walk(top+strings.Repeat("/d", maxDepth/2), Policy{})
	must(t, err)
	f.Close()
}

func TestErrorsShowOddNamesQuoted(t *testing.T) {
	err := &Error{Path: "/tmp/a\x1b[2J\nroot", Reason: "belongs to uid 1000"}
	if got, want := err.Error(), `"/tmp/a\x1b[2J\nroot" belongs to uid 1000`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestAShellReadsAWordAsOne(t *testing.T) {
	for _, text := range []string{"/etc/imdsfs/imdsfs.toml", "", "a b", "/w/a; touch PWNED; #", "$(id)", "it's", "`id`", "a\nb", "*", "\\"} {
		out, err := exec.Command("sh", "-c", "printf '%s|' "+ShellWord(text)+" end").Output()
		if want := text + "|end|"; err != nil || string(out) != want {
			t.Errorf("%q: %v, %q", text, err, out)
		}
	}
}
