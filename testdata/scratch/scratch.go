// Package scratch gives a test binary a temporary directory of its own, and removes the directories of binaries that were
// killed, panicked or timed out:
//
//	TestMain ──▶ Run ──▶ Make: clean up, make and lock a directory ──▶ TMPDIR ──▶ the tests ──▶ remove
//
//	func TestMain(m *testing.M) {
//		os.Exit(scratch.Run(m))
//	}
//
// TMPDIR names the directory, so everything that the tests and their programs make with t.TempDir or os.MkdirTemp is below
// it.
package scratch

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// variable names the temporary directory, os.TempDir.
const variable = "TMPDIR"

// The name is short, because the path of a socket has at most 107 bytes.
const format = "imdsfs.%04x"

var pattern = regexp.MustCompile(`^imdsfs\.[0-9a-f]{4}$`)

// errGone says that a directory was removed before it was locked.
var errGone = errors.New("it was removed meanwhile")

// Run runs tests with a temporary directory of their own. The result is the exit status.
func Run(m interface{ Run() int }) int {
	remove, err := Begin()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

// Begin sets TMPDIR to a new directory of [Make] until remove is called. A process whose parent has called Begin shares the
// parent's directory.
func Begin() (remove func() error, err error) {
	parent := os.TempDir()
	if pattern.MatchString(filepath.Base(parent)) {
		return func() error { return nil }, nil
	}
	dir, remove, err := Make(parent)
	if err != nil {
		return nil, err
	}
	return remove, os.Setenv(variable, dir)
}

// Make makes a directory below parent and locks it until this process ends. Root's directory is one that everybody may
// use, like /tmp. Before that Make removes directories below parent that nobody has locked. remove fails, and the
// directory stays, if something is mounted below it.
func Make(parent string) (dir string, remove func() error, err error) {
	clean(parent)
	for range 1000 {
		dir = filepath.Join(parent, fmt.Sprintf(format, rand.N(1<<16)))
		if err = os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
			continue
		}
		var held *os.File
		if err == nil {
			held, err = hold(dir, unix.LOCK_SH)
		}
		if errors.Is(err, errGone) || errors.Is(err, unix.EWOULDBLOCK) { // another process that cleans up was faster
			continue
		}
		if err == nil && os.Geteuid() == 0 {
			err = held.Chmod(0o777 | fs.ModeSticky)
		}
		return dir, func() error {
			defer held.Close()
			if left := mountsBelow(dir); len(left) > 0 {
				return fmt.Errorf("left mounted: %q", left)
			}
			return os.RemoveAll(dir)
		}, err
	}
	return "", nil, fmt.Errorf("make a directory in %s: %w", parent, err)
}

// hold opens a directory without following a symbolic link, and locks it.
func hold(dir string, how int) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errGone
	}
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err == nil {
		var held, there unix.Stat_t
		switch err = unix.Fstat(int(f.Fd()), &held); {
		case err != nil:
		case unix.Lstat(dir, &there) != nil || held.Dev != there.Dev || held.Ino != there.Ino:
			err = errGone
		case int(held.Uid) != os.Geteuid():
			err = unix.EPERM
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("hold %s: %w", dir, err)
	}
	return f, nil
}

// clean removes our directories below parent that nobody has locked. What it cannot remove stays.
func clean(parent string) {
	entries, _ := os.ReadDir(parent)
	for _, e := range entries {
		if !pattern.MatchString(e.Name()) {
			continue
		}
		dir := filepath.Join(parent, e.Name())
		held, err := hold(dir, unix.LOCK_EX)
		if err != nil {
			continue // somebody's
		}
		endPrograms(dir)
		if unmountBelow(dir) {
			os.RemoveAll(dir)
		}
		held.Close()
	}
}

// endPrograms kills programs that tests have left running. They have the tests' temporary directory in their environment.
func endPrograms(dir string) {
	environments, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environments {
		var pid int
		fmt.Sscanf(path, "/proc/%d/", &pid)
		p, err := os.FindProcess(pid) // a handle, so that the number cannot mean another process later
		if err != nil {
			continue
		}
		text, _ := os.ReadFile(path)
		if strings.Contains("\x00"+string(text), "\x00"+variable+"="+dir+"\x00") {
			p.Kill()
		}
		p.Release()
	}
}

// unmountBelow unmounts everything below dir. It reports whether nothing is mounted there afterwards.
func unmountBelow(dir string) bool {
	for range 16 { // mounts may be stacked
		left := mountsBelow(dir)
		if len(left) == 0 {
			return true
		}
		for i := len(left) - 1; i >= 0; i-- {
			unix.Unmount(left[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
	return false
}

// mountsBelow reads the kernel's list. Looking at the paths could hang.
func mountsBelow(dir string) (points []string) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	plain := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], dir+"/") {
			points = append(points, plain.Replace(f[4]))
		}
	}
	return points
}
