package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/fdstore"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/keeper"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/source/problem"
)

// giveUp is how long a mount waits for a daemon that does not get ready. Then whoever reads it is told that
// there is none.
const giveUp = 30 * time.Second

// isKept reports whether this process is a keeper's daemon.
func isKept() bool { return os.Getenv(fdstore.KeeperVariable) == strconv.Itoa(os.Getppid()) }

// An account is whom the daemon runs as.
type account struct {
	name, home string
	uid, gid   int
}

func lookUpAccount(name string) (*account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, problem.Invalid("create it first, for example: useradd --system "+name, fmt.Errorf("--user %s: %w", name, err))
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	return &account{name, u.HomeDir, uid, gid}, errors.Join(uidErr, gidErr)
}

// runKeeper supervises the daemon. It reads no more of the outside world than what it was started with.
func runKeeper(parent context.Context, s *settings, others map[string][]*os.File, log *logrus.Logger) error {
	// What is held is not for others to look at, through /proc/PID/fd.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_DUMPABLE): %w", err)
	}
	ctx, stop, signals := signals(parent)
	defer stop()
	program, err := ownProgram()
	if err != nil {
		return err
	}
	if err := keepFromChildren(); err != nil {
		return err
	}
	var ready atomic.Bool
	k := &keeper.Keeper{
		Command: append([]string{program}, os.Args[1:]...), MountName: fdstore.KeptName(fs.KeptDevice), Watchdog: s.watchdog, GiveUp: giveUp,
		Log:   func(format string, args ...any) { log.Warnf("keeper: "+format, args...) },
		Ready: func() { ready.Store(true); letGo(); daemon.SdNotify(false, daemon.SdNotifyReady) },
	}
	for name, files := range others {
		for _, f := range files {
			if fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3); err == nil {
				k.Hold(name, fd)
			}
			f.Close()
		}
	}
	if s.user != "" {
		if !isRoot() {
			return problem.Usage("leave out --user, or run as root", errors.New("only root can have the daemon run as somebody else"))
		}
		a, err := lookUpAccount(s.user)
		if err != nil {
			return err
		}
		if err := s.ownDirs(a); err != nil {
			return err
		}
		absolute, err := absoluteFlags(os.Args[1:])
		if err != nil {
			return err
		}
		// The last of a flag wins. The daemon's own defaults would be others.
		k.Command = append(append(k.Command, absolute...), "--runtime-dir="+s.runtimeDir, "--state-dir="+s.stateDir)
		// The daemon inherits the limit.
		if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
			return fmt.Errorf("setrlimit(RLIMIT_CORE): %w", err)
		}
		k.Start = func(cmd *exec.Cmd) error {
			if err := s.renewAddresses(ctx, program); err != nil {
				return err
			}
			return startAs(cmd, a, s.capabilities(), s.environment)
		}
		if s.addAddresses {
			release, err := s.keepAddresses(ctx, program, &ready)
			if err != nil {
				return err
			}
			defer func() {
				if err := release(); err != nil {
					log.WithError(err).Warn("keeper: take the link-local addresses away")
				}
			}()
		}
		if s.mount != none {
			k.Mount = append([]string{program, "mount-helper", "--runtime-dir", s.runtimeDir, "--user", s.user}, slices.Concat(s.mountArguments(), s.addressArguments())...)
		}
	}
	code := k.Run(ctx, signals)
	// After an orderly end there is nothing, unless the daemon might not unmount.
	known := fs.MayLive
	if k.Mounted() {
		known = fs.EndedForGood
	}
	// If none of ours has mounted, what is served there is another daemon's.
	if err := cleanUp(s, known); err != nil && (k.Mounted() || !errors.Is(err, fs.ErrServed)) {
		log.WithError(err).Warn("keeper: clean up")
	}
	if code != 0 {
		return &exitError{code: code}
	}
	return nil
}

// mountArguments say to mount-helper where a daemon mounts that is started now: the file may say otherwise by then.
func (s *settings) mountArguments() []string {
	if s.mountFlag != "" || s.config == "" {
		return []string{"-c", none, "--mount", s.mount}
	}
	return []string{"-c", s.config}
}

// capabilities are what the daemon needs beyond those of any user.
func (s *settings) capabilities() []uintptr {
	var caps []uintptr
	low := slices.ContainsFunc(s.listen, func(address string) bool {
		_, port, err := net.SplitHostPort(address)
		number, _ := strconv.Atoi(port)
		return address == linkLocal || err == nil && number > 0 && number < 1024
	})
	if low {
		caps = append(caps, unix.CAP_NET_BIND_SERVICE)
	}
	return caps
}
