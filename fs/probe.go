package fs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/safepath"
)

const (
	probeName = "imdsfs-probe" // argv[0] of the child
	// probeLimit is for the look, where nothing else holds it up: on a busy machine it is busyFactor times what the child
	// took to start, which is no less work.
	probeLimit = time.Second
	busyFactor = 20 // to what is measured on a busy machine
	// startLimit is for the child to start, and the most that it gets for the look.
	startLimit = 20 * time.Second
	// probeBegins is the first that the child writes.
	probeBegins = "looking\n"
)

// What a probe can look at.
const (
	probeWalk  = "walk"  // the way to a mount point, and what is there: see probeOpen
	probeEmpty = "empty" // whether a mount can go on the directory: the first name in it, or nothing
	probeAlive = "alive" // whether a mounted file system answers
)

// probeParent is the directory that a child inherits, to look at a name in it.
const probeParent = "/proc/self/fd/3"

// What probeOpen finds at a mount point.
const (
	pointMissing = "missing"
	pointMounted = "mounted" // something is mounted there, which was not looked at
	pointNotDir  = "not a directory"
	pointEmpty   = "empty"
	pointFull    = "full"
)

// ChildMain ends the process if it is a child that Mount started; call it first thing in main, and in
// TestMain. One kind tells the kernel of changes (notify.go). The other looks at a path: one on a hung
// file system puts whoever looks at it into a wait that no signal ends, so the daemon lets a child do it.
func ChildMain() {
	switch {
	case len(os.Args) == 4 && os.Args[0] == notifyName:
		notifyMain(orphan{os.Args[1], os.Args[2], os.Args[3] == "true"})
	case inProbe():
		os.Stdout.WriteString(probeBegins)
		text, err := look(os.Args[1], os.Args[2])
		var errno syscall.Errno
		if err != nil && !errors.As(err, &errno) {
			errno = syscall.EIO
		}
		fmt.Printf("%d\n%s", int(errno), text)
	default:
		return
	}
	syscall.Exit(0) // at once; os.Exit runs hooks, and the race detector's takes a second
}

func inProbe() bool { return len(os.Args) == 3 && os.Args[0] == probeName }

func look(what, path string) (string, error) {
	switch what {
	case probeWalk:
		return walkTo(path)
	case probeAlive:
		var st unix.Statfs_t
		return "", unix.Statfs(path, &st)
	case probeEmpty:
		return firstName(path)
	}
	return "", syscall.EINVAL
}

// A seen is what a child saw of a mount point, as JSON.
type seen struct {
	State   string
	Holds   string          // a name in the directory, if that is its state
	Parent  string          // the directory above, without symbolic links; it is passed on the socket
	Refused *safepath.Error // the way is not to be relied on
}

// A wantedPoint is a mount point to walk to, as JSON.
type wantedPoint struct {
	Dir   string
	Users []int // [safepath.Policy]
}

// walkTo is the child of probeOpen. It passes the directory above the mount point on the socket that it has inherited.
func walkTo(request string) (string, error) {
	var w wantedPoint
	if err := json.Unmarshal([]byte(request), &w); err != nil {
		return "", err
	}
	policy := safepath.Policy{Users: w.Users}
	var s seen
	parent, name, err := policy.OpenParent(w.Dir)
	if err == nil {
		defer parent.Close()
		s.Parent = parent.Name()
		if !utf8.ValidString(s.Parent) {
			return "", syscall.EILSEQ
		}
		s.State, s.Holds, err = stateOf(policy, parent, name)
	}
	switch {
	case errors.As(err, &s.Refused):
	case err != nil:
		return "", err
	default:
		if err := unix.Sendmsg(probeSocket, []byte{0}, unix.UnixRights(int(parent.Fd())), nil, 0); err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(s)
	return string(text), err
}

const probeSocket = 3 // the descriptor

// stateOf looks at a mount point, but not at what is mounted there.
func stateOf(policy safepath.Policy, parent *os.File, name string) (state, holds string, err error) {
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return pointMissing, "", nil
	}
	if err != nil {
		return "", "", err
	}
	at := os.NewFile(uintptr(fd), name)
	if _, ok, err := mountAt(parent, name, at); ok || err != nil {
		return pointMounted, "", err
	}
	_, entry, err := policy.OpenIn(parent, name)
	switch {
	case err != nil:
		return "", "", err
	case !entry.IsDir():
		return pointNotDir, "", nil
	}
	holds, err = firstName(filepath.Join(safepath.ProcPath(parent), name))
	if err == nil && holds == "" {
		return pointEmpty, "", nil
	}
	return pointFull, holds, err
}

// firstName is one of the names in a directory, "" if it is empty.
func firstName(path string) (string, error) {
	// O_NOFOLLOW: a link on the last name would be mounted over, not followed.
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

// probeOpen has a child walk to the directory above a mount point, and returns that, O_PATH, and what the child saw at
// the mount point. The error is that of probe, or [*safepath.Error].
func probeOpen(dir string, users []int) (*seen, *os.File, error) {
	request, err := json.Marshal(wantedPoint{dir, users})
	if err != nil {
		return nil, nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	defer unix.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "probe")
	text, err := probe(probeWalk, string(request), theirs)
	theirs.Close()
	if err != nil {
		return nil, nil, err
	}
	s := &seen{}
	if err := json.Unmarshal([]byte(text), s); err != nil {
		return nil, nil, fmt.Errorf("the child that looks at a path failed: %w", err)
	}
	if s.Refused != nil {
		return nil, nil, s.Refused
	}
	fd, err := receive(pair[0])
	if err != nil {
		return nil, nil, fmt.Errorf("the child that looks at a path failed: %w", err)
	}
	return s, os.NewFile(uintptr(fd), s.Parent), nil
}

// probe looks at a path in a child process. The error is ErrHangs, a [syscall.Errno] of the child, or
// a failure to run one. A child that hangs is killed and, should even that not end it, left behind: what it had found
// by then counts, however late we come to see it.
//
// The child inherits a file as descriptor 3, if one is given.
func probe(what, path string, inherit ...*os.File) (string, error) {
	if inProbe() {
		return "", errors.New("this program mounts without calling fs.ChildMain first")
	}
	out := probeOutput{begun: make(chan struct{})}
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{probeName, what, path}, Dir: "/", Env: []string{}, Stdout: &out, ExtraFiles: inherit}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start a child to look at %s: %w", path, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	done := make(chan struct{})
	defer close(done)
	limit := experienced(startLimit, done)
	begun := out.begun
	for {
		select {
		case err := <-ended:
			return parseProbe(out.text.Bytes(), err)
		case <-begun:
			begun = nil
			limit = experienced(lookLimit(time.Since(start)), done)
		case <-limit:
			cmd.Process.Kill()
			select {
			case err := <-ended:
				if err == nil {
					return parseProbe(out.text.Bytes(), nil)
				}
			case <-time.After(probeLimit):
			}
			return "", ErrHangs
		}
	}
}

// lookLimit is for the look of a child that took so long to start.
func lookLimit(started time.Duration) time.Duration {
	return min(max(probeLimit, busyFactor*started), startLimit)
}

// A probeOutput is what a child writes. It may be read when the child has ended.
type probeOutput struct {
	text  bytes.Buffer
	begun chan struct{} // closed at the first byte
}

func (o *probeOutput) Write(p []byte) (int, error) {
	if o.text.Len() == 0 {
		close(o.begun)
	}
	return o.text.Write(p)
}

func parseProbe(out []byte, err error) (string, error) {
	out, ok := bytes.CutPrefix(out, []byte(probeBegins))
	if !ok {
		return "", fmt.Errorf("the child that looks at a path failed: %w", errors.Join(err, errors.New("it is another program")))
	}
	head, text, ok := bytes.Cut(out, []byte("\n"))
	var errno int
	if _, scanErr := fmt.Sscanf(string(head), "%d", &errno); err != nil || scanErr != nil || !ok {
		return "", fmt.Errorf("the child that looks at a path failed: %w", errors.Join(err, scanErr))
	}
	if errno != 0 {
		return "", syscall.Errno(errno)
	}
	return string(text), nil
}
