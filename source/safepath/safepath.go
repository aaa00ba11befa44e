// Package safepath walks a path once, name by name, and returns descriptors to act on, so that a privileged
// process acts on what it has looked at. Nobody can exchange a directory or slip in a symbolic link between the
// look and the act.
//
//	dir, err := safepath.Policy{}.OpenDir("/run/imdsfs")           // only root and we can exchange what is on the way
//	dir, name, err := safepath.Policy{Users: []int{uid}}.OpenParent("/run/metadata")
//	f, err := safepath.Policy{}.OpenAppend("/var/log/imdsfs.log", 0o600)
//	f, entry, err := safepath.Walk(path, checker)                  // with rules of your own
//
// Each name is opened with O_PATH|O_NOFOLLOW in the directory that was opened before it: one openat(2) a name, on
// every kernel. Links are read and walked here in the same way. "..", in a link, goes back to the directory that the
// walk came from. The descriptors that are returned are O_PATH: they hold a place, and neither block nor read.
package safepath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxLinks = 40 // symbolic links in one path, as in Linux
	// maxDepth is how many directories may be below each other, each of which is held open. Without a bound, whoever
	// owns one of them could have a walk take all descriptors of the process.
	maxDepth = 128
)

// An Entry is one place on the way.
type Entry struct {
	Path string // absolute, without symbolic links
	Stat unix.Stat_t
}

// IsDir reports whether the entry is a directory.
func (e *Entry) IsDir() bool { return e.kind() == unix.S_IFDIR }

// IsRegular reports whether the entry is a regular file.
func (e *Entry) IsRegular() bool { return e.kind() == unix.S_IFREG }

func (e *Entry) isLink() bool { return e.kind() == unix.S_IFLNK }

func (e *Entry) kind() uint32 { return e.Stat.Mode & unix.S_IFMT }

// A Checker decides about each place on the way. What it looks at is open, and is what the walk goes on from.
type Checker interface {
	// Name is asked about each entry, and the directory in which its name was looked up.
	Name(dir, entry *Entry) error
	// Link is asked about each symbolic link, once it is known what it leads to.
	Link(link, target *Entry) error
}

// An Error refuses a path.
type Error struct {
	Path   string // the component that is not to be relied on
	Reason string // "belongs to uid 1000"
	Hint   string // what to do
}

// Error quotes a path that a terminal or a log would not show as it is: somebody else may have chosen its names.
func (e *Error) Error() string {
	path := e.Path
	if quoted := strconv.Quote(path); quoted != `"`+path+`"` {
		path = quoted
	}
	return path + " " + e.Reason
}

// A place is an entry that is held.
type place struct {
	Entry
	fd int
}

// A walk is the way to a place: the directories from the root to it.
type walk struct {
	checker Checker
	stack   []place
	// names are still to be looked up.
	names []string
	links []pendingLink
}

// A pendingLink is resolved when no more than left names are still to be looked up.
type pendingLink struct {
	link  Entry
	left  int
	asked bool // of the checker
}

// Walk opens an absolute path. The file has the resolved path as its name. Errors are those of the checker, or
// [*fs.PathError] with the component that could not be opened.
func Walk(path string, checker Checker) (*os.File, *Entry, error) {
	w := walk{checker: checker}
	defer w.close()
	if err := w.to(path); err != nil {
		return nil, nil, err
	}
	file, entry := w.take()
	return file, entry, nil
}

// to walks to path, and leaves it on top of the stack.
func (w *walk) to(path string) error {
	if !filepath.IsAbs(path) {
		return &fs.PathError{Op: "open", Path: path, Err: errors.New("not an absolute path")}
	}
	root, err := openEntry(unix.AT_FDCWD, "/", "/")
	if err != nil {
		return err
	}
	w.stack = append(w.stack, root)
	w.names = split(path)
	for len(w.names) > 0 {
		if err := w.step(); err != nil {
			return err
		}
	}
	return nil
}

func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// step looks one name up.
func (w *walk) step() error {
	name := w.names[0]
	w.names = w.names[1:]
	switch name {
	case ".":
	case "..":
		if len(w.stack) > 1 {
			w.pop()
		}
	default:
		if err := w.enter(name); err != nil {
			return err
		}
	}
	return w.resolved()
}

func (w *walk) enter(name string) error {
	dir := w.top()
	if len(w.stack) > maxDepth {
		return &fs.PathError{Op: "open", Path: dir.Path, Err: unix.ENAMETOOLONG}
	}
	entry, err := openEntry(dir.fd, name, filepath.Join(dir.Path, name))
	if err != nil {
		return err
	}
	if err := w.checker.Name(&dir.Entry, &entry.Entry); err != nil {
		unix.Close(entry.fd)
		return err
	}
	if !entry.isLink() {
		w.stack = append(w.stack, entry)
		return nil
	}
	defer unix.Close(entry.fd)
	if len(w.links) == maxLinks {
		return &fs.PathError{Op: "open", Path: entry.Path, Err: unix.ELOOP}
	}
	target, err := readLink(entry.fd)
	if err != nil {
		return &fs.PathError{Op: "readlink", Path: entry.Path, Err: err}
	}
	if filepath.IsAbs(target) {
		for len(w.stack) > 1 {
			w.pop()
		}
	}
	w.links = append(w.links, pendingLink{link: entry.Entry, left: len(w.names)})
	w.names = append(split(target), w.names...)
	return nil
}

// resolved asks about the links whose target is now on top of the stack. They stay listed, to be counted.
func (w *walk) resolved() error {
	for i := range w.links {
		l := &w.links[i]
		if l.asked || len(w.names) > l.left {
			continue
		}
		l.asked = true
		if err := w.checker.Link(&l.link, &w.top().Entry); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) top() *place { return &w.stack[len(w.stack)-1] }

func (w *walk) pop() {
	unix.Close(w.top().fd)
	w.stack = w.stack[:len(w.stack)-1]
}

// take gives the top of the stack away.
func (w *walk) take() (*os.File, *Entry) {
	top := *w.top()
	w.stack = w.stack[:len(w.stack)-1]
	return os.NewFile(uintptr(top.fd), top.Path), &top.Entry
}

func (w *walk) close() {
	for len(w.stack) > 0 {
		w.pop()
	}
}

// openEntry opens a name in a directory, and nothing behind it. A directory is asked for as one first: what the kernel
// mounts by itself when it is entered (autofs) is then mounted.
func openEntry(dir int, name, path string) (place, error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(dir, name, flags|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOTDIR) {
		fd, err = unix.Openat(dir, name, flags, 0)
	}
	if err != nil {
		return place{}, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	p := place{Entry{Path: path}, fd}
	if err := unix.Fstat(fd, &p.Stat); err != nil {
		unix.Close(fd)
		return place{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return p, nil
}

// readLink is the target of a link that is open.
func readLink(fd int) (string, error) {
	text := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", text)
	if err != nil {
		return "", err
	}
	return string(text[:n]), nil
}

// Reopen opens what f holds, with flags of open(2) such as O_RDONLY. It acts on the same file, whatever its path has
// become. It needs /proc.
func Reopen(f *os.File, flags int) (*os.File, error) {
	fd, err := unix.Open(ProcPath(f), flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// ProcPath is a path that leads to what f holds, for system calls that take paths only. It must be followed
// (no AT_SYMLINK_NOFOLLOW), and f stay open.
func ProcPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// ShellWord is text, such as a path, as one word of a shell, for a command that somebody may paste.
func ShellWord(text string) string {
	if text != "" && strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/") == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
