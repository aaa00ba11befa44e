// Package safepath walks a path once, name by name, and returns descriptors to act on. So a privileged process acts on what
// it has checked: no other user can exchange a directory or put in a symbolic link between the check and the act.
//
//	"/run/imdsfs" ──▶ open "/" ──▶ open "run" in it ──▶ open "imdsfs" in that ──▶ *os.File (O_PATH) ──▶ Reopen, MakeDir, …
//	                                  │ Checker.Name         │ Checker.Name
//	                                  └── an error ends the walk
//
//	dir, err := safepath.Policy{}.OpenDir("/run/imdsfs")           // only root and we can exchange what is on the way
//	dir, name, err := safepath.Policy{Users: []int{uid}}.OpenParent("/run/metadata")
//	f, err := safepath.Policy{}.OpenAppend("/var/log/imdsfs.log", 0o600)
//	f, entry, err := safepath.Walk(path, checker)                  // with rules of your own
//
// Each name is opened with O_PATH|O_NOFOLLOW in the directory before it: one openat(2) a name, on every kernel. Symbolic
// links are read and walked in the same way. ".." in a link goes back to the directory that the walk came from. The returned
// descriptors are O_PATH: they hold a file or directory, but cannot read it and never block.
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
	// maxDepth is how many directories may be nested. Each is held open: without a bound, the owner of one of them could
	// make a walk use up all descriptors of the process.
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

// A Checker decides about each place on the way. The places are open, and the walk continues from them.
type Checker interface {
	// Name checks each entry. dir is the directory in which its name was looked up.
	Name(dir, entry *Entry) error
	// Link checks each symbolic link, once its target is known.
	Link(link, target *Entry) error
}

// An Error refuses a path.
type Error struct {
	Path   string // the component that is refused
	Reason string // "belongs to uid 1000"
	Hint   string // what to do
}

// Error quotes a path that a terminal or a log would not show as it is: another user may have chosen its names.
func (e *Error) Error() string {
	path := e.Path
	if quoted := strconv.Quote(path); quoted != `"`+path+`"` {
		path = quoted
	}
	return path + " " + e.Reason
}

// A place is an entry and the descriptor that holds it.
type place struct {
	Entry
	fd int
}

// A walk is the state of one walk.
type walk struct {
	checker Checker
	stack   []place  // the directories from the root to where the walk is
	names   []string // still to be looked up
	links   []pendingLink
}

// A pendingLink is resolved when at most left names are still to be looked up.
type pendingLink struct {
	link    Entry
	left    int
	checked bool
}

// Walk opens an absolute path. The name of the file is the resolved path. Errors are those of the checker, or
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

// step looks up one name.
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

// resolved checks the links whose target is now on top of the stack. They stay in the list, so that maxLinks counts them.
func (w *walk) resolved() error {
	for i := range w.links {
		l := &w.links[i]
		if l.checked || len(w.names) > l.left {
			continue
		}
		l.checked = true
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

// take removes the top of the stack and returns it.
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

// openEntry opens a name in a directory and does not follow a link. It first tries to open a directory, so that the kernel
// mounts what it mounts on access (autofs).
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

// readLink returns the target of an open link.
func readLink(fd int) (string, error) {
	text := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", text)
	if err != nil {
		return "", err
	}
	return string(text[:n]), nil
}

// Reopen opens the file that f holds, with flags of open(2) such as O_RDONLY. It is the same file, whatever is at its path
// by now. Reopen needs /proc.
func Reopen(f *os.File, flags int) (*os.File, error) {
	fd, err := unix.Open(ProcPath(f), flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// ProcPath returns a path that leads to the file that f holds, for system calls that take only paths. They must follow links
// (no AT_SYMLINK_NOFOLLOW), and f must stay open.
func ProcPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// ShellWord quotes text, such as a path, as one word for a shell command that the user can paste.
func ShellWord(text string) string {
	if text != "" && strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/") == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
