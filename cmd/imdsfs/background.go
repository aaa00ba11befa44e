package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
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
	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/safepath"
)

const (
	mountLimit = 30 * time.Second // until the daemon is ready
	endLimit   = 12 * time.Second // until one that is told to stop has; a keeper gives its daemon 10 s
	// afterUmount is how long one that was unmounted may take to be gone: umount does not wait for it.
	afterUmount = endLimit
	retryPause  = 100 * time.Millisecond
	maxSaid     = 64 << 10 // bytes, of what a daemon says at its start
)

var errNotReady = fmt.Errorf("the daemon is not ready within %v", mountLimit)

// background starts the daemon and waits until it is ready. If it does not become so, it has said why.
func (m *mountRequest) background(parent context.Context) error {
	ctx, stop, _ := daemon.Signals(parent)
	defer stop()
	log, err := m.openLog()
	if err != nil {
		return err
	}
	until := time.Now().Add(afterUmount)
	for {
		said, err := m.try(ctx, log)
		served := strings.Contains(said, daemon.AlreadyRunning) || strings.Contains(said, fs.ErrServed.Error())
		if err != nil && served && !isMounted(m.settings.Mount) && time.Now().Before(until) && ctx.Err() == nil {
			time.Sleep(retryPause)
			continue
		}
		io.WriteString(log, said) // the daemon could do no more if this fails
		switch {
		case log == os.Stderr:
		case m.verbose:
			io.WriteString(m.stderr, said)
		case err != nil:
			io.WriteString(m.stderr, complaints(said))
		}
		return err
	}
}

// try starts the daemon once. said is its log until it is ready, or ends.
func (m *mountRequest) try(ctx context.Context, log *os.File) (said string, err error) {
	program, err := os.Executable()
	if err != nil {
		return "", &exitError{mountSystem, err}
	}
	fd, err := unix.MemfdCreate("imdsfs start", unix.MFD_CLOEXEC) // unlike a pipe it never breaks
	if err != nil {
		return "", &exitError{mountSystem, fmt.Errorf("memfd_create: %w", err)}
	}
	start := os.NewFile(uintptr(fd), "start")
	defer start.Close()
	d, err := startInBackground(program, m.source, m.args, log, start)
	if err != nil {
		return "", &exitError{mountSystem, err}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, mountLimit, errNotReady)
	defer cancel()
	err = d.await(ctx)
	if err != nil && d.killed() {
		cleanUp(m.settings, fs.MayLive) // if that fails too, the next start does it
	}
	text, readErr := io.ReadAll(io.NewSectionReader(start, 0, maxSaid))
	return string(text), errors.Join(err, readErr)
}

// complaints are the lines with which a subcommand fails (text.go); everything, if it ended without.
func complaints(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "imdsfs: ") {
			b.WriteString(line)
		}
	}
	return cmp.Or(b.String(), text)
}

// openLog opens where the daemon logs when it is ready: the file of the option log, or the journal if our
// standard error is that, or nowhere.
func (m *mountRequest) openLog() (*os.File, error) {
	if m.log == "" && isJournal(os.Stderr) {
		return os.Stderr, nil
	}
	if m.log == "" {
		f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return nil, &exitError{mountSystem, err}
		}
		return f, nil
	}
	// Not of the daemon's user either: he could have root write into another file of root's.
	f, err := safepath.Policy{}.OpenAppend(m.log, 0o600)
	var refused *safepath.Error
	switch {
	case errors.As(err, &refused):
		return nil, &exitError{mountFailed, problem.Failed(refused.Hint+", with log=", fmt.Errorf("log %s: %w", m.log, err))}
	case err != nil:
		return nil, &exitError{mountFailed, problem.Failed("choose another file with log=", err)}
	}
	return f, nil
}

// isJournal reports whether a file is what $JOURNAL_STREAM says is connected to the journal, systemd.exec(5).
func isJournal(f *os.File) bool {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return err == nil && os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// A backgrounded program is one that is starting.
type backgrounded struct {
	cmd   *exec.Cmd
	dir   string // of the socket on which it says that it is ready
	ready chan struct{}
	ended chan error
}

// startInBackground starts a program in a session of its own, with nothing of ours but its standard output and
// error.
func startInBackground(program, source string, args []string, stdout, stderr *os.File) (d *backgrounded, err error) {
	d = &backgrounded{cmd: exec.Command(program, args...), ready: make(chan struct{}), ended: make(chan error, 1)}
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
	d.cmd.Env = append(slices.DeleteFunc(os.Environ(), isFromManager),
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

// removeLeftovers removes the directories of those of our user who were killed while they waited for a daemon: of a socket
// that nobody has open any more, the kernel refuses a connection.
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

// isFromManager is for what a service manager says to us alone, as its service.
func isFromManager(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return name == "NOTIFY_SOCKET" || name == "FDSTORE" || strings.HasPrefix(name, "LISTEN_") || strings.HasPrefix(name, "WATCHDOG_")
}

// await waits until the program is ready, and ends it when ctx ends.
func (d *backgrounded) await(ctx context.Context) error {
	defer os.RemoveAll(d.dir)
	select {
	case <-d.ready:
		return nil
	case err := <-d.ended:
		switch {
		case err == nil:
			err = errors.New("somebody stopped it")
		case d.cmd.ProcessState.Exited():
			return &exitError{code: mountFailed} // it has said why
		}
		return &exitError{mountFailed, fmt.Errorf("the daemon ended before it was ready: %w", err)}
	case <-ctx.Done():
	}
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(endLimit):
		syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL) // the session's group: the keeper's daemon too
		<-d.ended
	}
	return &exitError{mountFailed, problem.Failed("see what it waits for with -o log-level=debug,log=FILE", context.Cause(ctx))}
}

// killed reports, of one that has ended, whether it had no chance to clear up after itself.
func (d *backgrounded) killed() bool { return !d.cmd.ProcessState.Exited() }

// isMounted reports whether a daemon's mount is on dir, by the kernel's list: looking at the path could hang.
func isMounted(dir string) bool {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	escaped := strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`).Replace(dir)
	for line := range strings.Lines(string(text)) {
		if mount, kind, _ := strings.Cut(line, " - "); strings.Contains(mount, " / "+escaped+" ") && strings.HasPrefix(kind, "fuse.imdsfs ") {
			return true
		}
	}
	return false
}
