package mountpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/safepath"
)

// A question is what a child looks at.
type question string

const (
	probeWalk  question = "walk"  // the way to a mount point, and what is there: see walkTo
	probeEmpty question = "empty" // whether a mount can go on the directory: the first name in it, or nothing
	probeAlive question = "alive" // whether a mounted file system answers
)

const (
	probeName = "imdsfs-probe" // argv[0] of the child
	// probeBegins is the first that the child writes.
	probeBegins = "looking\n"
	// probeParent is the directory that a child inherits, to look at a name in it.
	probeParent = "/proc/self/fd/3"
	probeSocket = 3 // the descriptor of the socket that a child inherits for probeWalk
)

// A state is what a child finds at a mount point.
type state string

const (
	stateMissing state = "missing"
	stateMounted state = "mounted" // something is mounted there, which the child did not look at
	stateNotDir  state = "not a directory"
	stateEmpty   state = "empty"
	stateFull    state = "full"
)

// ChildMain answers and ends the process if it is a child that this package started to look at a path.
func ChildMain() {
	if !inChild() {
		return
	}
	os.Stdout.WriteString(probeBegins)
	text, err := look(question(os.Args[1]), os.Args[2])
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		errno = syscall.EIO
	}
	fmt.Printf("%d\n%s", int(errno), text)
	syscall.Exit(0) // at once; os.Exit runs hooks, and the race detector's takes a second
}

func inChild() bool { return len(os.Args) == 3 && os.Args[0] == probeName }

func look(what question, path string) (string, error) {
	switch what {
	case probeWalk:
		return lookWalk(path)
	case probeAlive:
		var st unix.Statfs_t
		return "", unix.Statfs(path, &st)
	case probeEmpty:
		return firstName(path)
	}
	return "", syscall.EINVAL
}

// A walkRequest is a mount point to walk to, as JSON.
type walkRequest struct {
	Dir   string
	Users []int // [safepath.Policy]
}

// A walkResult is what a child saw of a mount point, as JSON.
type walkResult struct {
	State   state
	Holds   string          // a name in the directory, if State is stateFull
	Parent  string          // the directory above, without symbolic links; it is passed on the socket
	Refused *safepath.Error // somebody else could exchange a part of the path
}

// lookWalk is the child of walkTo. It passes the directory above the mount point on the socket that it has inherited.
func lookWalk(request string) (string, error) {
	var w walkRequest
	if err := json.Unmarshal([]byte(request), &w); err != nil {
		return "", err
	}
	policy := safepath.Policy{Users: w.Users}
	var r walkResult
	parent, name, err := policy.OpenParent(w.Dir)
	if err == nil {
		defer parent.Close()
		r.Parent = parent.Name()
		if !utf8.ValidString(r.Parent) {
			return "", syscall.EILSEQ
		}
		r.State, r.Holds, err = stateOf(policy, parent, name)
	}
	switch {
	case errors.As(err, &r.Refused):
	case err != nil:
		return "", err
	default:
		if err := unix.Sendmsg(probeSocket, []byte{0}, unix.UnixRights(int(parent.Fd())), nil, 0); err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(r)
	return string(text), err
}

// stateOf looks at a mount point, but not at what is mounted there.
func stateOf(policy safepath.Policy, parent *os.File, name string) (s state, holds string, err error) {
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return stateMissing, "", nil
	}
	if err != nil {
		return "", "", err
	}
	at := os.NewFile(uintptr(fd), name)
	if _, ok, err := mountAt(parent, name, at); ok || err != nil {
		return stateMounted, "", err
	}
	_, entry, err := policy.OpenIn(parent, name)
	switch {
	case err != nil:
		return "", "", err
	case !entry.IsDir():
		return stateNotDir, "", nil
	}
	holds, err = firstName(filepath.Join(safepath.ProcPath(parent), name))
	if err == nil && holds == "" {
		return stateEmpty, "", nil
	}
	return stateFull, holds, err
}

// firstName is one of the names in a directory, "" if it is empty.
func firstName(path string) (string, error) {
	// O_NOFOLLOW: the mount would go over a link in the last place, and not follow it.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	names, err := f.Readdirnames(1)
	switch {
	case len(names) > 0:
		return names[0], nil
	case errors.Is(err, io.EOF):
		return "", nil
	}
	return "", err
}
