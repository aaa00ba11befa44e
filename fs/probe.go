package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	probeName  = "imdsfs-probe" // argv[0] of the child
	probeLimit = time.Second
)

// What a probe can look at.
const (
	probeResolve = "resolve" // the directory's path without symbolic links
	probeEmpty   = "empty"   // whether a mount can go on the directory: the first name in it, or nothing
	probeAlive   = "alive"   // whether a mounted file system answers
)

// ChildMain ends the process if it is a child that Mount started; call it first thing in main, and in
// TestMain. One kind tells the kernel of changes (notify.go). The other looks at a path: one on a hung
// file system puts whoever looks at it into a wait that no signal ends, so the daemon lets a child do it.
func ChildMain() {
	switch {
	case len(os.Args) == 4 && os.Args[0] == notifyName:
		notifyMain(orphan{os.Args[1], os.Args[2], os.Args[3] == "true"})
	case inProbe():
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
	case probeResolve:
		path, err := filepath.EvalSymlinks(path)
		if err != nil {
			return "", err
		}
		info, err := os.Stat(path)
		if err == nil && !info.IsDir() {
			err = syscall.ENOTDIR
		}
		return path, err
	case probeAlive:
		var st unix.Statfs_t
		return "", unix.Statfs(path, &st)
	case probeEmpty:
		// O_NOFOLLOW: a link on the last name would be mounted over, not followed.
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		names, err := f.Readdirnames(1)
		if len(names) == 0 {
			return "", nil // io.EOF
		}
		return names[0], err
	}
	return "", syscall.EINVAL
}

// probe looks at a path in a child process. The error is ErrHangs, a [syscall.Errno] of the child, or
// a failure to run one. A child that hangs is killed and, should even that not end it, left behind.
func probe(what, path string) (string, error) {
	if inProbe() {
		return "", errors.New("this program mounts without calling fs.ChildMain first")
	}
	var out bytes.Buffer
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{probeName, what, path}, Dir: "/", Env: []string{}, Stdout: &out}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start a child to look at %s: %w", path, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	limit := time.NewTimer(probeLimit)
	defer limit.Stop()
	select {
	case err := <-ended:
		return parseProbe(out.Bytes(), err)
	case <-limit.C:
		cmd.Process.Kill()
		return "", ErrHangs
	}
}

func parseProbe(out []byte, err error) (string, error) {
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
