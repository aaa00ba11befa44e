package mount

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/fs/mountpoint"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/safepath"
)

const (
	readyLimit = 30 * time.Second // until the daemon is ready
	stopLimit  = 12 * time.Second // for a daemon that was told to stop; a keeper gives its daemon 10 s
	// afterUmount is how long a daemon that was unmounted may take to end: umount does not wait for it.
	afterUmount = stopLimit
	retryPause  = 100 * time.Millisecond
	maxStartLog = 64 << 10 // bytes

	// exitTaken is the exit status of a daemon that we start in the background, if another daemon has its directories.
	exitTaken = 76
)

var errNotReady = fmt.Errorf("the daemon is not ready within %v", readyLimit)

func startedInBackground() bool { return os.Getenv(daemon.BackgroundVariable) != "" }

// ExitStatus returns the exit status of imdsfs serve, and of what it starts, for an error that otherwise means code. It tells
// [Request.Do] that another daemon still has the directories. A keeper passes the exit status of its daemon on.
func ExitStatus(err error, code int) int {
	if startedInBackground() && daemon.IsTaken(err) {
		return exitTaken
	}
	return code
}

// start starts the daemon and waits until it is ready. If it does not become ready, start prints its log. While a daemon
// that was just unmounted still has the directories, it tries again.
func (p *plan) start(parent context.Context) error {
	ctx, stop, _ := daemon.Signals(parent)
	defer stop()
	log, err := p.openLog()
	if err != nil {
		return err
	}
	until := time.Now().Add(afterUmount)
	for {
		a := p.try(ctx, log)
		if a.taken && !isMounted(p.settings.Mount) && time.Now().Before(until) && ctx.Err() == nil {
			time.Sleep(retryPause)
			continue
		}
		io.WriteString(log, a.log) // an error changes nothing for the daemon
		switch {
		case log == os.Stderr:
		case p.verbose:
			io.WriteString(p.stderr, a.log)
		case a.err != nil:
			io.WriteString(p.stderr, errorLines(a.log))
		}
		return a.err
	}
}

// An attempt is one start of the daemon.
type attempt struct {
	log   string // until it was ready, or ended
	taken bool   // it ended because another daemon has the directories
	err   error  // nil if it is ready
}

// try starts the daemon once.
func (p *plan) try(ctx context.Context, log *os.File) attempt {
	failed := func(err error) attempt { return attempt{err: &problem.Exit{Code: ExitSystem, Err: err}} }
	program, err := os.Executable()
	if err != nil {
		return failed(err)
	}
	fd, err := unix.MemfdCreate("imdsfs start", unix.MFD_CLOEXEC) // unlike a pipe, it never breaks
	if err != nil {
		return failed(fmt.Errorf("memfd_create: %w", err))
	}
	startLog := os.NewFile(uintptr(fd), "start")
	defer startLog.Close()
	d, err := startProcess(program, p.source, p.args, log, startLog)
	if err != nil {
		return failed(err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, errNotReady)
	defer cancel()
	err = d.await(ctx)
	if err != nil && d.wasKilled() {
		CleanUp(p.settings, fs.MayLive) // the next start does it if this fails
	}
	text, readErr := io.ReadAll(io.NewSectionReader(startLog, 0, maxStartLog))
	return attempt{log: string(text), taken: err != nil && d.cmd.ProcessState.ExitCode() == exitTaken, err: errors.Join(err, readErr)}
}

// errorLines returns the lines of a log that subcommands print when they fail (text.go of package main), or all lines if
// there are none.
func errorLines(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "imdsfs: ") {
			b.WriteString(line)
		}
	}
	return cmp.Or(b.String(), text)
}

// openLog opens the file where the daemon logs once it is ready: that of the option log; or the journal, if our standard
// error is the journal; or /dev/null.
func (p *plan) openLog() (*os.File, error) {
	if p.log == "" && isJournal(os.Stderr) {
		return os.Stderr, nil
	}
	if p.log == "" {
		f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return nil, &problem.Exit{Code: ExitSystem, Err: err}
		}
		return f, nil
	}
	// A file that the daemon's user can replace is refused too: root would write into another file of root's.
	f, err := safepath.Policy{}.OpenAppend(p.log, 0o600)
	var refused *safepath.Error
	switch {
	case errors.As(err, &refused):
		return nil, &problem.Exit{Code: ExitFailed, Err: problem.Failed(refused.Hint+", with log=", fmt.Errorf("log %s: %w", p.log, err))}
	case err != nil:
		return nil, &problem.Exit{Code: ExitFailed, Err: problem.Failed("choose another file with log=", err)}
	}
	return f, nil
}

// isJournal reports whether a file is the one that $JOURNAL_STREAM says is connected to the journal, systemd.exec(5).
func isJournal(f *os.File) bool {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return err == nil && os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// isMounted reports whether a daemon's mount is on dir. It reads the kernel's list: to touch the path could hang.
func isMounted(dir string) bool {
	m, found, err := mountpoint.Topmost(dir)
	return err == nil && found && m.Type == mountpoint.FSType && m.Root == "/"
}
