// Package supervise is imdsfs serve --keep: it supervises a daemon with a keeper, and does root's part for a daemon that runs as
// another user.
//
//	daemon.Settings ─→ Run ─→ handover.Keeper ─┬─ mount-helper (as root): addresses, mount
//	                                           └─ imdsfs serve (as --user): the daemon, again and again
//
// Package handover tells who trusts whom.
package supervise

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/mount"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/source/problem"
)

// A supervisor is a process that runs a keeper.
type supervisor struct {
	settings *daemon.Settings
	program  string // this one
	keeper   *handover.Keeper
	ready    atomic.Bool // a daemon has been ready
}

// Run supervises a daemon with the arguments of this process, until the daemon ends in an orderly way. given holds its flags,
// and settings what they mean; sockets are those of a socket unit. Run reads only what this process was started with. The error is a [problem.Exit] if the daemon ends with a status.
func Run(parent context.Context, given daemon.Config, settings *daemon.Settings, sockets map[string][]*os.File, log *logrus.Logger) error {
	if err := handover.Protect(); err != nil {
		return err
	}
	settings.ForgetFile()
	ctx, stop, signals := daemon.Signals(parent)
	defer stop()
	program, err := handover.OwnProgram()
	if err != nil {
		return err
	}
	s := &supervisor{settings: settings, program: program}
	s.keeper = &handover.Keeper{
		Command:   append([]string{program}, os.Args[1:]...),
		MountName: handover.FDName(fs.KeptDevice),
		Watchdog:  settings.Keeper.Watchdog,
		GiveUp:    handover.GiveUp,
		Log:       func(format string, args ...any) { log.Warnf("keeper: "+format, args...) },
		Ready:     func() { s.ready.Store(true); daemon.LeaveStart(); sd.SdNotify(false, sd.SdNotifyReady) },
	}
	s.keeper.Hold(sockets)
	if settings.Keeper.User != "" {
		remove, err := s.prepareUser(ctx, given)
		if err != nil {
			return err
		}
		defer func() {
			if err := remove(); err != nil {
				log.WithError(err).Warn("keeper: take the link-local addresses away")
			}
		}()
	}
	code := s.keeper.Run(ctx, signals)
	if err := s.cleanUp(); err != nil {
		log.WithError(err).Warn("keeper: clean up")
	}
	if code != 0 {
		return &problem.Exit{Code: code}
	}
	return nil
}

// cleanUp unmounts what the last daemon has left.
func (s *supervisor) cleanUp() error {
	// After an orderly end there is nothing left, unless the daemon had no right to unmount.
	known := fs.MayLive
	if s.keeper.Mounted() {
		known = fs.EndedForGood
	}
	err := mount.CleanUp(s.settings, known)
	if !s.keeper.Mounted() && errors.Is(err, fs.ErrServed) {
		return nil // none of our daemons has mounted: the mount is another daemon's
	}
	return err
}

// prepareUser prepares the keeper to run its daemons as the account that --user names: with directories that are the
// account's, and with the mount and the link-local addresses made by root before. remove takes the addresses away, at the end.
func (s *supervisor) prepareUser(ctx context.Context, given daemon.Config) (remove func() error, err error) {
	if os.Geteuid() != 0 {
		return nil, problem.Usage("leave out --user, or run as root", errors.New("only root can run the daemon as another user"))
	}
	a, err := privilege.Lookup(s.settings.Keeper.User)
	if err != nil {
		return nil, err
	}
	if err := s.settings.OwnDirs(a); err != nil {
		return nil, err
	}
	absolute, err := absoluteFlags(given)
	if err != nil {
		return nil, err
	}
	k := s.keeper
	// The last one of a flag wins. The defaults for the daemon's user would be other directories.
	k.Command = append(append(k.Command, absolute...), "--runtime-dir="+s.settings.RuntimeDir, "--state-dir="+s.settings.StateDir)
	before := func() error { return s.renewAddresses(ctx) }
	if err := k.RunAs(a, capabilities(s.settings.Listen), s.settings.Environment, before); err != nil {
		return nil, err
	}
	remove = func() error { return nil }
	if s.settings.Addresses.Add {
		if remove, err = s.addAddresses(ctx); err != nil {
			return nil, err
		}
	}
	if s.settings.Mount != daemon.None {
		k.MountCommand = slices.Concat([]string{s.program, "mount-helper", "--runtime-dir", s.settings.RuntimeDir, "--user", a.Name},
			mountArguments(s.settings), addressArguments(s.settings))
	}
	return remove, nil
}

// absoluteFlags returns the flags of serve that name a relative path, with an absolute one: the daemon's working directory is
// "/".
func absoluteFlags(given daemon.Config) (flags []string, err error) {
	for _, f := range []struct{ name, path string }{
		{"config", given.File}, {"mount", given.Mount}, {"admin", given.Admin},
	} {
		if f.path == "" || f.path == daemon.None || filepath.IsAbs(f.path) {
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

// mountArguments returns the arguments that tell mount-helper where the daemon mounts. The file may name another directory by
// then.
func mountArguments(s *daemon.Settings) []string {
	if s.StatedMount() != "" || s.File == "" {
		return []string{"-c", daemon.None, "--mount", s.Mount}
	}
	return []string{"-c", s.File}
}

// capabilities returns the capabilities that a daemon needs to listen on these addresses.
func capabilities(listen []string) []uintptr {
	low := slices.ContainsFunc(listen, func(address string) bool {
		_, port, err := net.SplitHostPort(address)
		number, _ := strconv.Atoi(port)
		return address == daemon.LinkLocal || err == nil && number > 0 && number < 1024
	})
	if low {
		return []uintptr{unix.CAP_NET_BIND_SERVICE}
	}
	return nil
}
