package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/fdstore"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/keeper"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/source/problem"
)

// giveUp is how long a mount waits for a daemon that does not get ready. Then whoever reads it is told that
// there is daemon.None.
const giveUp = 30 * time.Second

// isKept reports whether this process is a keeper's daemon.
func isKept() bool { return os.Getenv(fdstore.KeeperVariable) == strconv.Itoa(os.Getppid()) }

// runKeeper supervises the daemon. It reads no more of the outside world than what it was started with.
func runKeeper(parent context.Context, s *daemon.Settings, others map[string][]*os.File, log *logrus.Logger) error {
	// What is held is not for others to look at, through /proc/PID/fd.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_DUMPABLE): %w", err)
	}
	ctx, stop, signals := daemon.Signals(parent)
	defer stop()
	program, err := daemon.OwnProgram()
	if err != nil {
		return err
	}
	if err := keepFromChildren(); err != nil {
		return err
	}
	var ready atomic.Bool
	k := &keeper.Keeper{
		Command: append([]string{program}, os.Args[1:]...), MountName: fdstore.KeptName(fs.KeptDevice), Watchdog: s.Keeper.Watchdog, GiveUp: giveUp,
		Log:   func(format string, args ...any) { log.Warnf("keeper: "+format, args...) },
		Ready: func() { ready.Store(true); daemon.LeaveStart(); sd.SdNotify(false, sd.SdNotifyReady) },
	}
	for name, files := range others {
		for _, f := range files {
			if fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3); err == nil {
				k.Hold(name, fd)
			}
			f.Close()
		}
	}
	if s.Keeper.User != "" {
		if os.Geteuid() != 0 {
			return problem.Usage("leave out --user, or run as root", errors.New("only root can have the daemon run as somebody else"))
		}
		a, err := daemon.LookUpAccount(s.Keeper.User)
		if err != nil {
			return err
		}
		if err := s.OwnDirs(a); err != nil {
			return err
		}
		absolute, err := absoluteFlags(os.Args[1:])
		if err != nil {
			return err
		}
		// The last of a flag wins. The daemon's own defaults would be others.
		k.Command = append(append(k.Command, absolute...), "--runtime-dir="+s.RuntimeDir, "--state-dir="+s.StateDir)
		// The daemon inherits the limit.
		if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
			return fmt.Errorf("setrlimit(RLIMIT_CORE): %w", err)
		}
		k.Start = func(cmd *exec.Cmd) error {
			if err := renewAddresses(ctx, s, program); err != nil {
				return err
			}
			return daemon.StartAs(cmd, a, capabilities(s), s.Environment)
		}
		if s.Addresses.Add {
			release, err := keepAddresses(ctx, s, program, &ready)
			if err != nil {
				return err
			}
			defer func() {
				if err := release(); err != nil {
					log.WithError(err).Warn("keeper: take the link-local addresses away")
				}
			}()
		}
		if s.Mount != daemon.None {
			k.Mount = append([]string{program, "mount-helper", "--runtime-dir", s.RuntimeDir, "--user", s.Keeper.User}, slices.Concat(mountArguments(s), addressArguments(s))...)
		}
	}
	code := k.Run(ctx, signals)
	// After an orderly end there is nothing, unless the daemon might not unmount.
	known := fs.MayLive
	if k.Mounted() {
		known = fs.EndedForGood
	}
	// If daemon.None of ours has mounted, what is served there is another daemon's.
	if err := cleanUp(s, known); err != nil && (k.Mounted() || !errors.Is(err, fs.ErrServed)) {
		log.WithError(err).Warn("keeper: clean up")
	}
	if code != 0 {
		return &exitError{code: code}
	}
	return nil
}

// mountArguments say to mount-helper where a daemon mounts that is started now: the file may say otherwise by then.
func mountArguments(s *daemon.Settings) []string {
	if s.StatedMount() != "" || s.File == "" {
		return []string{"-c", daemon.None, "--mount", s.Mount}
	}
	return []string{"-c", s.File}
}

// capabilities are what the daemon needs beyond those of any user.
func capabilities(s *daemon.Settings) []uintptr {
	var caps []uintptr
	low := slices.ContainsFunc(s.Listen, func(address string) bool {
		_, port, err := net.SplitHostPort(address)
		number, _ := strconv.Atoi(port)
		return address == daemon.LinkLocal || err == nil && number > 0 && number < 1024
	})
	if low {
		caps = append(caps, unix.CAP_NET_BIND_SERVICE)
	}
	return caps
}
