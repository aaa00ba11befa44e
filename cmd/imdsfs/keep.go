package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/source/problem"
)

// runKeeper supervises the daemon, in a process of its own. It reads nothing of the outside world but what it was started
// with.
func runKeeper(parent context.Context, s *settings, others map[string][]*os.File, log *logrus.Logger) error {
	if err := handover.Protect(); err != nil {
		return err
	}
	ctx, stop, signals := signals(parent)
	defer stop()
	program, err := handover.OwnProgram()
	if err != nil {
		return err
	}
	var ready atomic.Bool
	k := &handover.Keeper{
		Command:   append([]string{program}, os.Args[1:]...),
		MountName: handover.FDName(fs.KeptDevice),
		Watchdog:  s.watchdog,
		GiveUp:    handover.GiveUp,
		Log:       func(format string, args ...any) { log.Warnf("keeper: "+format, args...) },
		Ready:     func() { ready.Store(true); letGo(); daemon.SdNotify(false, daemon.SdNotifyReady) },
	}
	k.Hold(others)
	if s.user != "" {
		release, err := s.keepFor(ctx, k, &ready)
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
func (s *settings) keepFor(ctx context.Context, k *handover.Keeper, ready *atomic.Bool) (release func() error, err error) {
	if !isRoot() {
		return nil, problem.Usage("leave out --user, or run as root", errors.New("only root can have the daemon run as somebody else"))
	}
	a, err := privilege.Lookup(s.user)
	if err != nil {
		return nil, err
	}
	if err := s.ownDirs(a); err != nil {
		return nil, err
	}
	absolute, err := absoluteFlags(os.Args[1:])
	if err != nil {
		return nil, err
	}
	program := k.Command[0]
	// The last one of a flag wins. The defaults for the daemon's user would be other directories.
	k.Command = append(append(k.Command, absolute...), "--runtime-dir="+s.runtimeDir, "--state-dir="+s.stateDir)
	before := func() error { return s.renewAddresses(ctx, program) }
	if err := k.RunAs(a, s.capabilities(), s.environment, before); err != nil {
		return nil, err
	}
	release = func() error { return nil }
	if s.addAddresses {
		if release, err = s.keepAddresses(ctx, program, ready); err != nil {
			return nil, err
		}
	}
	if s.mount != none {
		k.MountCommand = append([]string{program, "mount-helper", "--runtime-dir", s.runtimeDir, "--user", s.user}, slices.Concat(s.mountArguments(), s.addressArguments())...)
	}
	return release, nil
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

// absoluteFlags are the flags of serve that name a relative path, with absolute ones.
func absoluteFlags(args []string) (flags []string, err error) {
	var given settings
	cmd := &cobra.Command{}
	given.addFlags(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		return nil, err
	}
	for _, f := range []struct{ name, path string }{
		{"config", given.config}, {"mount", given.mount}, {"admin", given.admin},
	} {
		if f.path == "" || f.path == none || filepath.IsAbs(f.path) {
			continue
		}
		path, err := filepath.Abs(f.path)
		if err != nil {
			return nil, err
		}
		flags = append(flags, "--"+f.name+"="+path)
	}
	return flags, nil
}
