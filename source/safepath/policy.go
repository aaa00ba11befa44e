package safepath

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A Policy is a [Checker] that refuses a path if another user could exchange a component of it. The zero Policy trusts only
// root and the user of this process.
//
//   - A directory on the way must belong to a trusted user, and no other user may write to it.
//   - A sticky directory such as /tmp may be writable for others. The next component must then belong to a trusted user. A
//     process that is not root accepts such a directory without the sticky bit too: it has only its own files to lose.
//   - A symbolic link is followed if it belongs to root or to the user of this process. What it leads through must obey the
//     same rules.
type Policy struct {
	// Users are further trusted users: the user of a daemon for which root acts. Their symbolic links are not followed.
	Users []int
}

var _ Checker = Policy{}

const hintOwner = "choose a path that only root and the daemon's user can change"

// Name implements [Checker].
func (p Policy) Name(dir, entry *Entry) error {
	if err := p.Holds(dir); err != nil {
		return err
	}
	// Here the unmapped uid is not trusted: any user may own the entry.
	if WritableByOthers(&dir.Stat) && !IsOurs(entry.Stat.Uid) && !slices.Contains(p.Users, int(entry.Stat.Uid)) {
		return &Error{entry.Path, fmt.Sprintf("belongs to uid %d", entry.Stat.Uid), hintOwner}
	}
	if entry.isLink() && !IsOurs(entry.Stat.Uid) {
		return &Error{entry.Path, fmt.Sprintf("is a symbolic link of uid %d", entry.Stat.Uid), hintOwner}
	}
	return nil
}

// Link implements [Checker].
func (p Policy) Link(_, _ *Entry) error { return nil }

// Holds refuses a directory in which another user could exchange a name that belongs to us.
func (p Policy) Holds(dir *Entry) error {
	switch {
	case !p.trusts(dir.Stat.Uid):
		return &Error{dir.Path, fmt.Sprintf("belongs to uid %d", dir.Stat.Uid), hintOwner}
	case WritableByOthers(&dir.Stat) && dir.Stat.Mode&unix.S_ISVTX == 0 && os.Geteuid() == 0:
		return &Error{dir.Path, fmt.Sprintf("can be written by others (mode %04o)", dir.Stat.Mode&0o7777), hintOwner + ", or make it sticky: chmod +t"}
	}
	return nil
}

// trusts reports whether uid may own a directory on the way, and so exchange what is in it.
func (p Policy) trusts(uid uint32) bool {
	return IsOurs(uid) || slices.Contains(p.Users, int(uid)) || uid == unmapped()
}

// IsOurs reports whether uid is root's or that of this process.
func IsOurs(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

// IsUnknown reports whether the kernel shows this uid for users that our user namespace does not map. Then it does not say
// which user it is.
func IsUnknown(uid uint32) bool { return uid != 0 && uid == unmapped() }

// WritableByOthers reports whether another user than the owner can write. The primary group of an ordinary user does not
// count for the user's own files: on most systems it has no other member.
func WritableByOthers(st *unix.Stat_t) bool {
	others := uint32(0o022)
	if uid := os.Geteuid(); uid != 0 && int(st.Uid) == uid && int(st.Gid) == os.Getegid() {
		others = 0o002
	}
	return st.Mode&others != 0
}

// unmapped is the uid that the kernel shows for owners that our user namespace does not map: the machine's root and every
// other user outside. They cannot be told apart. So all of them are trusted to own a directory on the way, such as / and
// /run, but not an entry in a directory where others can write. It is 0 if the uid is also that of a user in the namespace.
var unmapped = sync.OnceValue(func() uint32 {
	text, _ := os.ReadFile("/proc/sys/kernel/overflowuid")
	overflow, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	maps, mapsErr := os.ReadFile("/proc/self/uid_map")
	if err != nil || mapsErr != nil {
		return 0
	}
	for line := range strings.Lines(string(maps)) {
		var inside, outside, count uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil || inside <= overflow && overflow < inside+count {
			return 0
		}
	}
	return uint32(overflow)
})

// OpenDir opens a directory, which must belong to a trusted user and not be writable for others.
func (p Policy) OpenDir(path string) (*os.File, error) {
	file, entry, err := Walk(path, p)
	if err != nil {
		return nil, err
	}
	if err := p.ownDir(entry); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func (p Policy) ownDir(entry *Entry) error {
	switch {
	case !entry.IsDir():
		return &fs.PathError{Op: "open", Path: entry.Path, Err: unix.ENOTDIR}
	case !p.trusts(entry.Stat.Uid):
		return &Error{entry.Path, fmt.Sprintf("belongs to uid %d", entry.Stat.Uid), hintOwner}
	case WritableByOthers(&entry.Stat):
		return &Error{entry.Path, fmt.Sprintf("is writable by others (mode %04o)", entry.Stat.Mode&0o7777), hintOwner}
	}
	return nil
}

// OpenParent opens the directory that holds the last name of path. No other user can exchange a name of ours in it. The
// name itself need not exist. Use dir and name from now on, and not path.
func (p Policy) OpenParent(path string) (dir *os.File, name string, err error) {
	path = filepath.Clean(path)
	dir, entry, err := Walk(filepath.Dir(path), p)
	switch {
	case err != nil:
		return nil, "", err
	case !entry.IsDir():
		err = &fs.PathError{Op: "open", Path: entry.Path, Err: unix.ENOTDIR}
	default:
		err = p.Holds(entry)
	}
	if err != nil {
		return nil, "", errors.Join(err, dir.Close())
	}
	return dir, filepath.Base(path), nil
}

// OpenIn opens a name in a directory from [Policy.OpenParent]. It does not follow a symbolic link: it opens the link itself,
// if the policy allows to follow it.
func (p Policy) OpenIn(dir *os.File, name string) (*os.File, *Entry, error) {
	d, err := statEntry(dir)
	if err != nil {
		return nil, nil, err
	}
	entry, err := openEntry(int(dir.Fd()), name, filepath.Join(dir.Name(), name))
	if err != nil {
		return nil, nil, err
	}
	file := os.NewFile(uintptr(entry.fd), entry.Path)
	if err := p.Name(d, &entry.Entry); err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, &entry.Entry, nil
}

func statEntry(f *os.File) (*Entry, error) {
	e := &Entry{Path: f.Name()}
	if err := unix.Fstat(int(f.Fd()), &e.Stat); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return e, nil
}

// MakeDir opens a directory as [Policy.OpenDir] does, and makes it if it is missing, with this mode whatever the umask.
// Missing directories above it get mode 0755.
func (p Policy) MakeDir(path string, mode os.FileMode) (*os.File, error) {
	f, err := p.OpenDir(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	above := filepath.Dir(filepath.Clean(path))
	if above == filepath.Clean(path) {
		return nil, err
	}
	// Make the directory above first if it is missing, and then walk to it: links may lead there.
	parent, name, err := p.OpenParent(path)
	if errors.Is(err, fs.ErrNotExist) {
		made, makeErr := p.MakeDir(above, 0o755)
		if makeErr != nil {
			return nil, makeErr
		}
		made.Close()
		parent, name, err = p.OpenParent(path)
	}
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	full := filepath.Join(parent.Name(), name)
	err = unix.Mkdirat(int(parent.Fd()), name, uint32(mode.Perm()))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, &fs.PathError{Op: "mkdir", Path: full, Err: err}
	}
	created := err == nil
	f, entry, err := p.OpenIn(parent, name)
	if err != nil {
		return nil, err
	}
	if err := p.ownDir(entry); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// Mostly the umask has left the mode alone. Then another process of ours may use the directory already.
	if created && os.FileMode(entry.Stat.Mode).Perm() != mode.Perm() {
		err := IsEmpty(f)
		if err == nil {
			err = Chmod(f, mode)
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// IsEmpty refuses a directory that is not empty. A directory that was just made is empty; if it is not, a user who can write
// to the directory above has put another in its place.
func IsEmpty(dir *os.File) error {
	list, err := Reopen(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer list.Close()
	names, err := list.Readdirnames(1)
	switch {
	case len(names) > 0:
		return &Error{dir.Name(), "is not the directory that was just made: it holds something", hintOwner}
	case errors.Is(err, io.EOF):
		return nil
	}
	return err
}

// Chmod changes the mode of the file that f holds. fchmod(2) cannot do that for an O_PATH descriptor.
func Chmod(f *os.File, mode os.FileMode) error {
	if err := unix.Chmod(ProcPath(f), uint32(mode.Perm())); err != nil {
		return &fs.PathError{Op: "chmod", Path: f.Name(), Err: err}
	}
	return nil
}

// OpenAppend opens a regular file to append to, and makes it if it is missing. The file must have no other name, and belong
// to root or to the user of this process. So nothing is ever written to a link, a FIFO, a device or the file of another
// user. OpenAppend never waits.
func (p Policy) OpenAppend(path string, mode os.FileMode) (*os.File, error) {
	dir, name, err := p.OpenParent(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	full := filepath.Join(dir.Name(), name)
	// Look at the file first: to open another user's file for writing may fail without a reason, and may make a device act.
	entry, err := openEntry(int(dir.Fd()), name, full)
	if err == nil {
		unix.Close(entry.fd)
		err = appendable(&entry.Entry)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_APPEND | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, err := unix.Openat(int(dir.Fd()), name, flags, uint32(mode.Perm()))
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: full, Err: err}
	}
	f := os.NewFile(uintptr(fd), full)
	e, err := statEntry(f)
	if err == nil {
		err = appendable(e)
	}
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func appendable(e *Entry) error {
	switch {
	case e.isLink():
		return &Error{e.Path, fmt.Sprintf("is a symbolic link of uid %d", e.Stat.Uid), "name the file itself"}
	case !e.IsRegular():
		return &Error{e.Path, "is not a regular file", "name another"}
	case !IsOurs(e.Stat.Uid):
		return &Error{e.Path, fmt.Sprintf("belongs to uid %d", e.Stat.Uid), "remove it, or name another"}
	case e.Stat.Nlink != 1:
		return &Error{e.Path, "has another name besides this one", "remove it, or name another"}
	}
	return nil
}
