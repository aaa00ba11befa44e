package mount

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/safepath"
)

// A starting is a process that was started in the background.
type starting struct {
	cmd   *exec.Cmd
	dir   string // of the socket on which the process says that it is ready
	ready chan struct{}
	ended chan error
}

// startProcess starts a program in a session of its own. It gets nothing of ours but its standard output and error. source is
// what the list of mounts is to show.
func startProcess(program, source string, args []string, stdout, stderr *os.File) (d *starting, err error) {
	d = &starting{cmd: exec.Command(program, args...), ready: make(chan struct{}), ended: make(chan error, 1)}
	// Where only we can exchange what is on the way, the path stays what it is.
	temp, _, err := safepath.Policy{}.OpenParent(filepath.Join(os.TempDir(), "imdsfs-mount"))
	if err != nil {
		return nil, problem.Failed("set TMPDIR to a directory that only root can change, or to /tmp", err)
	}
	defer temp.Close()
	removeLeftovers(temp)
	if d.dir, err = os.MkdirTemp(temp.Name(), notifyDirPrefix); err != nil { // 0700
		return nil, problem.Failed("make room there, or set TMPDIR", fmt.Errorf("make a directory in %s: %w", temp.Name(), errors.Unwrap(err)))
	}
	defer func() {
		if err != nil {
			os.RemoveAll(d.dir)
		}
	}()
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(d.dir, "notify"), Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	if err = privilege.CloseOnExec(); err != nil {
		return nil, err
	}
	d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = "/", stdout, stderr
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	d.cmd.Env = append(slices.DeleteFunc(os.Environ(), handover.IsServiceVariable),
		"NOTIFY_SOCKET="+socket.LocalAddr().String(), daemon.BackgroundVariable+"=1", daemon.MountSourceVariable+"="+source)
	if err = d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		message := make([]byte, 4096)
		for {
			n, err := socket.Read(message)
			if err != nil {
				return
			}
			if slices.Contains(strings.Split(string(message[:n]), "\n"), "READY=1") {
				close(d.ready)
				return
			}
		}
	}()
	go func() {
		err := d.cmd.Wait()
		socket.Close()
		d.ended <- err
	}()
	return d, nil
}

// notifyDirPrefix begins the name of the directory of a socket on which a daemon says that it is ready.
const notifyDirPrefix = "imdsfs-mount-"

// removeLeftovers removes such directories of our user's if their process was killed while it waited for a daemon. The kernel
// refuses a connection to a socket that nobody has open any more.
func removeLeftovers(temp *os.File) {
	entries, _ := os.ReadDir(safepath.ProcPath(temp))
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), notifyDirPrefix) {
			continue
		}
		fd, err := unix.Openat(int(temp.Fd()), e.Name(), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		dir := os.NewFile(uintptr(fd), e.Name())
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && int(st.Uid) == os.Geteuid() && st.Mode&0o077 == 0 {
			conn, err := net.Dial("unixgram", filepath.Join(safepath.ProcPath(dir), "notify"))
			if err == nil {
				conn.Close()
			}
			if errors.Is(err, unix.ECONNREFUSED) && unix.Unlinkat(fd, "notify", 0) == nil {
				unix.Unlinkat(int(temp.Fd()), e.Name(), unix.AT_REMOVEDIR)
			}
		}
		dir.Close()
	}
}

// await waits until the process is ready, and stops it when ctx ends.
func (d *starting) await(ctx context.Context) error {
	defer os.RemoveAll(d.dir)
	select {
	case <-d.ready:
		return nil
	case err := <-d.ended:
		switch {
		case err == nil:
			err = errors.New("somebody stopped it")
		case d.cmd.ProcessState.Exited():
			return &problem.Exit{Code: ExitFailed} // the daemon has said why
		}
		return &problem.Exit{Code: ExitFailed, Err: fmt.Errorf("the daemon ended before it was ready: %w", err)}
	case <-ctx.Done():
	}
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(stopLimit):
		syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL) // the session's group: the keeper's daemon too
		<-d.ended
	}
	return &problem.Exit{Code: ExitFailed, Err: problem.Failed("see what it waits for with -o log-level=debug,log=FILE", context.Cause(ctx))}
}

// wasKilled reports whether a process that has ended had no chance to clean up.
func (d *starting) wasKilled() bool { return !d.cmd.ProcessState.Exited() }
