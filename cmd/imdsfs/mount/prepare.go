package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/imds/linklocal"
	"github.com/imdsfs/imdsfs/source/problem"
)

// PrepareStart does what root has to do before a daemon starts. In a unit it leaves an error to the daemon, which prints it and ends.
// report prints an error.
func PrepareStart(ctx context.Context, s *daemon.Settings, report func(error)) error {
	store, _, err := handover.Open()
	if err != nil {
		return err
	}
	if !store.BySystemd() {
		return provide(ctx, s, store)
	}
	store.Remove(daemon.KeptRefusal) // of a daemon that was killed before it had read it
	if awaitTurn(s, report) {
		return nil
	}
	if err := provide(ctx, s, store); err != nil {
		return daemon.LeaveRefusal(store, err)
	}
	return nil
}

// awaitTurn waits, after refused starts, until the next one may be tried. It reports whether systemd stops us meanwhile. The
// next start does not wait then; and after SIGTERM, which is a final stop (the unit sends SIGUSR1 for a restart), everything
// is taken away.
func awaitTurn(s *daemon.Settings, report func(error)) (stopped bool) {
	a, err := account(s)
	if err != nil {
		return false // provide returns the error
	}
	t := daemon.OpenTurn(s.RuntimeDir, a.UID)
	defer t.Close()
	wait := t.Wait()
	if wait == 0 {
		return false
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGUSR1)
	defer signal.Stop(signals)
	fmt.Fprintf(os.Stderr, "imdsfs: retry %d of %d in %v; systemctl restart tries at once\n", t.Refusals, daemon.MaxRetries, wait)
	select {
	case <-time.After(wait):
		return false
	case sig := <-signals:
		t.Forget()
		if sig == syscall.SIGTERM {
			if err := TakeAway(s, fs.EndedForGood); err != nil {
				report(err)
			}
		}
		return true
	}
}

// provide adds the addresses and mounts, as far as the settings ask for either.
func provide(ctx context.Context, s *daemon.Settings, store *handover.Store) error {
	if err := provideAddresses(ctx, s); err != nil || s.Mount == daemon.None {
		return err
	}
	return mountFor(s, store)
}

// provideAddresses adds the addresses for a daemon that has no right to.
func provideAddresses(ctx context.Context, s *daemon.Settings) error {
	if !s.Addresses.Add {
		return WithdrawAddresses(s) // an earlier daemon may have asked for them
	}
	return linklocal.Provide(ctx, s.LinkOwner(), linklocal.Config{Force: s.Addresses.Force, Warn: warnOnStderr})
}

// account returns the account that the daemon runs as.
func account(s *daemon.Settings) (*privilege.Account, error) {
	if s.Keeper.User == "" {
		return &privilege.Account{UID: os.Getuid(), GID: os.Getgid()}, nil
	}
	return privilege.Lookup(s.Keeper.User)
}

// mountFor mounts for a daemon, and leaves the mount with the store. It does nothing if a mount is kept already.
func mountFor(s *daemon.Settings, store *handover.Store) error {
	if !store.Durable() {
		return problem.Usage("in a unit: NotifyAccess=all, FileDescriptorStoreMax=64, Environment=FDSTORE=64",
			errors.New("mount-helper leaves the mount with a keeper or with systemd's file descriptor store, and there is neither"))
	}
	a, err := account(s)
	if err != nil {
		return err
	}
	mounted, err := fs.MountFor(fs.Config{Dir: s.Mount, Source: os.Getenv(daemon.MountSourceVariable), RuntimeDir: s.RuntimeDir, Keeper: store}, a.UID, a.GID)
	switch {
	case err != nil:
		return err
	case !mounted && handover.HasKeeper(): // a keeper runs us only if it holds no mount
		return daemon.IsRunning(s.RuntimeDir)
	case !mounted:
		fmt.Fprintf(os.Stderr, "imdsfs: %s is kept mounted\n", s.Mount)
	}
	cleanUpOthers(s)
	return nil
}
