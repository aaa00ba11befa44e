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
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs"
)

const (
	// backgroundVariable, set by mount, tells the daemon and its keeper what becomes of their standard
	// error when they are ready.
	backgroundVariable = "IMDSFS_BACKGROUND"
	silent             = "silent" // nobody reads it
	logged             = "logged" // it stays

	mountLimit = 30 * time.Second // until the daemon is ready
	endLimit   = 12 * time.Second // until one that is told to stop has; a keeper gives its daemon 10 s
	// afterUmount is how long one that was unmounted may take to be gone: umount does not wait for it.
	afterUmount = 3 * time.Second
	retryPause  = 100 * time.Millisecond
	maxSaid     = 64 << 10 // bytes, of what a daemon says at its start
)

var errNotReady = fmt.Errorf("the daemon is not ready within %v", mountLimit)

// background starts the daemon and waits until it is ready. If it does not become so, it has said why.
func (m *mountRequest) background(parent context.Context) error {
	ctx, stop, _ := signals(parent)
	defer stop()
	for until := time.Now().Add(afterUmount); ; time.Sleep(retryPause) {
		said, err := m.try(ctx)
		served := strings.Contains(said, alreadyRunning) || strings.Contains(said, fs.ErrServed.Error())
		if err != nil && served && !isMounted(m.settings.mount) && time.Now().Before(until) && ctx.Err() == nil {
			continue
		}
		if err != nil || m.verbose {
			io.WriteString(m.stderr, said)
		}
		return err
	}
}

// try starts the daemon once. said is for who called mount: everything, or of a failure what matters.
func (m *mountRequest) try(ctx context.Context) (said string, err error) {
	program, err := os.Executable()
	if err != nil {
		return "", &mountError{mountSystem, err}
	}
	log, mode, err := m.openLog()
	if err != nil {
		return "", err
	}
	begin := int64(0)
	if log != os.Stderr {
		defer log.Close()
		if begin, err = log.Seek(0, io.SeekEnd); err != nil {
			return "", &mountError{mountFailed, err}
		}
	}
	d, err := startInBackground(program, m.args, log, mode)
	if err != nil {
		return "", &mountError{mountSystem, err}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, mountLimit, errNotReady)
	defer cancel()
	err = d.await(ctx)
	if err != nil && d.killed() {
		fs.CleanUp(m.settings.mount, m.settings.runtimeDir) // if that fails too, the next start does it
	}
	if log == os.Stderr {
		return "", err // who called mount has read it
	}
	text, readErr := io.ReadAll(io.NewSectionReader(log, begin, maxSaid))
	switch {
	case readErr != nil:
		return "", errors.Join(err, readErr)
	case err != nil:
		return complaints(string(text)), err
	}
	return string(text), nil
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

// openLog opens what the daemon's standard error is: the file of the option log, or the journal if ours is
// that. Else a file without a name takes what it says until it is ready; unlike a pipe it never breaks.
func (m *mountRequest) openLog() (f *os.File, mode string, err error) {
	switch {
	case m.log != "":
		f, err = os.OpenFile(m.log, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, "", &mountError{mountFailed, failure(mountFailed, "choose another file with log=", err)}
		}
		return f, logged, nil
	case isJournal(os.Stderr):
		return os.Stderr, logged, nil
	}
	fd, err := unix.MemfdCreate("imdsfs log", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, "", &mountError{mountSystem, fmt.Errorf("memfd_create: %w", err)}
	}
	return os.NewFile(uintptr(fd), "log"), silent, nil
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

// startInBackground starts a program in a session of its own, with nothing of ours but log for its standard
// error.
func startInBackground(program string, args []string, log *os.File, mode string) (d *backgrounded, err error) {
	d = &backgrounded{cmd: exec.Command(program, args...), ready: make(chan struct{}), ended: make(chan error, 1)}
	if d.dir, err = os.MkdirTemp("", "imdsfs-mount-"); err != nil { // 0700
		return nil, failure(mountSystem, "make room there, or set TMPDIR", err)
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
	if err = keepFromChildren(); err != nil {
		return nil, err
	}
	d.cmd.Dir, d.cmd.Stderr = "/", log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	d.cmd.Env = append(slices.DeleteFunc(os.Environ(), isFromManager),
		"NOTIFY_SOCKET="+socket.LocalAddr().String(), backgroundVariable+"="+mode)
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

// isFromManager is for what a service manager says to us alone, as its service.
func isFromManager(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return name == "NOTIFY_SOCKET" || name == "FDSTORE" || strings.HasPrefix(name, "LISTEN_") || strings.HasPrefix(name, "WATCHDOG_")
}

// keepFromChildren has no child get what our starter forgot to close: a daemon would hold it for ever.
func keepFromChildren() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
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
			return &exitError{mountFailed} // it has said why
		}
		return &mountError{mountFailed, fmt.Errorf("the daemon ended before it was ready: %w", err)}
	case <-ctx.Done():
	}
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(endLimit):
		syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL) // the session's group: the keeper's daemon too
		<-d.ended
	}
	return &mountError{mountFailed, failure(mountFailed, "see what it waits for with -o log-level=debug,log=FILE", context.Cause(ctx))}
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

// letGo is what mount expects of a daemon, and of its keeper, before they tell it that they are ready: from
// then on nobody reads their standard error, unless it is a log.
func letGo() {
	if os.Getenv(backgroundVariable) != silent {
		return
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err == nil {
		err = unix.Dup3(int(null.Fd()), 2, 0)
		null.Close()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "imdsfs: warning: standard error stays open: %v\n", err)
	}
}
