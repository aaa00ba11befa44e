package main

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"sync/atomic"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/source/problem"
)

// runKeeper supervises the daemon, in a process of its own. It reads nothing of the outside world but what it was started
// with.
func runKeeper(parent context.Context, s *daemon.Settings, others map[string][]*os.File, log *logrus.Logger) error {
	if err := handover.Protect(); err != nil {
		return err
	}
	ctx, stop, signals := daemon.Signals(parent)
	defer stop()
	program, err := handover.OwnProgram()
	if err != nil {
		return err
	}
	var ready atomic.Bool
	k := &handover.Keeper{
		Command:   append([]string{program}, os.Args[1:]...),
		MountName: handover.FDName(fs.KeptDevice),
		Watchdog:  s.Keeper.Watchdog,
		GiveUp:    handover.GiveUp,
		Log:       func(format string, args ...any) { log.Warnf("keeper: "+format, args...) },
		Ready:     func() { ready.Store(true); daemon.LeaveStart(); sd.SdNotify(false, sd.SdNotifyReady) },
	}
	k.Hold(others)
	if s.Keeper.User != "" {
		release, err := keepFor(ctx, k, s, &ready)
		if err != nil {
			return err
		}
		defer func() {
			if err := release(); err != nil {
				log.WithError(err).Warn("keeper: take the link-local addresses away")
			}
		}()
	}
	code := k.Run(ctx, signals)
	// After an orderly end there is nothing left, unless the daemon had no right to unmount.
	known := fs.MayLive
	if k.Mounted() {
		known = fs.EndedForGood
	}
	// If none of our daemons has mounted, what is served there is another daemon's.
	if err := cleanUp(s, known); err != nil && (k.Mounted() || !errors.Is(err, fs.ErrServed)) {
		log.WithError(err).Warn("keeper: clean up")
	}
	if code != 0 {
		return &exitError{code: code}
	}
	return nil
}

// keepFor prepares a keeper to run its daemons as the account that --user names: with directories that are the account's,
// and with the mount and the link-local addresses made by root before. release takes the addresses away, at the end.
func keepFor(ctx context.Context, k *handover.Keeper, s *daemon.Settings, ready *atomic.Bool) (release func() error, err error) {
	if os.Geteuid() != 0 {
		return nil, problem.Usage("leave out --user, or run as root", errors.New("only root can have the daemon run as somebody else"))
	}
	a, err := privilege.Lookup(s.Keeper.User)
	if err != nil {
		return nil, err
	}
	if err := s.OwnDirs(a); err != nil {
		return nil, err
	}
	absolute, err := absoluteFlags(os.Args[1:])
	if err != nil {
		return nil, err
	}
	program := k.Command[0]
	// The last one of a flag wins. The defaults for the daemon's user would be other directories.
	k.Command = append(append(k.Command, absolute...), "--runtime-dir="+s.RuntimeDir, "--state-dir="+s.StateDir)
	before := func() error { return renewAddresses(ctx, s, program) }
	if err := k.RunAs(a, capabilities(s), s.Environment, before); err != nil {
		return nil, err
	}
	release = func() error { return nil }
	if s.Addresses.Add {
		if release, err = keepAddresses(ctx, s, program, ready); err != nil {
			return nil, err
		}
	}
	if s.Mount != daemon.None {
		k.MountCommand = append([]string{program, "mount-helper", "--runtime-dir", s.RuntimeDir, "--user", s.Keeper.User}, slices.Concat(mountArguments(s), addressArguments(s))...)
	}
	return release, nil
}

// mountArguments tell mount-helper where a daemon that starts now mounts: the file may say otherwise by then.
func mountArguments(s *daemon.Settings) []string {
	if s.StatedMount() != "" || s.File == "" {
		return []string{"-c", daemon.None, "--mount", s.Mount}
	}
	return []string{"-c", s.File}
}

// capabilities are those that the daemon needs beyond those of any user.
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
