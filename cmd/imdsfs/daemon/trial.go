package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tomlfile"
)

// Try checks what a start checks: the settings, the files, and the tree that is made of them. It changes nothing, and does not
// ask what only the machine decides, such as whether a port is free.
func (c Config) Try(ctx context.Context) error {
	// Try reads credentials, as the daemon does.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_DUMPABLE): %w", err)
	}
	s, err := c.Validate(nil)
	if err != nil {
		return err
	}
	_, err = s.Build(ctx)
	return err
}

// Build builds the tree that would be served, with the changes made at run time, and returns its warnings. It changes nothing.
func (s *Settings) Build(ctx context.Context) (warnings problem.Faults, err error) {
	i := &Instance{settings: s, clock: clock.System()}
	launch, err := readLaunchTime(s.StateDir)
	if errors.Is(err, os.ErrNotExist) {
		launch, err = i.clock.Now(), nil
	}
	if err != nil {
		return nil, err
	}
	if err := i.openStore(launch); err != nil {
		return nil, err
	}
	if _, err := i.store.Reload(ctx); err != nil {
		return nil, invalid(s.File, err)
	}
	return i.store.Snapshot().Warnings(), nil
}

// An Inspection is what a daemon that serves an instance file learns from it.
type Inspection struct {
	Server   tomlfile.Server
	Snapshot *build.Snapshot // nil unless the file is good
	ID       string          // the instance id that the file gives, "" without one
}

// Inspect builds what serve -c FILE builds, from the same settings and sources, without the changes made at run time. The error
// is [problem.Faults] if the file is faulty.
func Inspect(ctx context.Context, path string) (*Inspection, error) {
	c := Config{File: path}
	instanceFile := tomlfile.New(path, c.Accept)
	file, err := instanceFile.Read()
	if file == nil {
		return &Inspection{}, err
	}
	found := &Inspection{Server: file.Server}
	s, _, _ := c.settle(&file.Server)
	s.file = instanceFile
	sources, err := s.makeSources()
	if err != nil {
		return found, err
	}
	now := clock.System().Now()
	store := source.NewStore(func() build.Env { return environment(now, now) }, sources...)
	store.LoadInTurn() // the rights of this thread may be those of another user
	if _, err := store.Reload(ctx); err != nil {
		return found, err
	}
	found.Snapshot = store.Snapshot()
	found.ID, _ = store.StatedID()
	return found, nil
}

// environment returns what a build needs to know of this process.
func environment(now, launch time.Time) build.Env {
	return build.Env{Now: now, LaunchTime: launch, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
}
