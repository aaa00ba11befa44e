package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/imdsfs/imdsfs/source/clock"
	"golang.org/x/sys/unix"
)

// try is a start up to where it would act: it refuses what a start refuses for its settings, its files and the tree
// that is made of them, and changes nothing. What only the machine decides, such as whether a port is free, it does not
// ask.
func (s *settings) try(ctx context.Context) error {
	// It has read credentials by the end, as the daemon has.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_DUMPABLE): %w", err)
	}
	if err := s.resolve(nil); err != nil {
		return err
	}
	return s.lookAtTree(ctx, io.Discard)
}

// lookAtTree builds the tree that would be served, with what was changed at run time, and prints warnings.
func (s *settings) lookAtTree(ctx context.Context, warnings io.Writer) error {
	p := &process{settings: s, clock: clock.System()}
	launch, err := readLaunchTime(s.stateDir)
	if errors.Is(err, os.ErrNotExist) {
		launch, err = p.clock.Now(), nil
	}
	if err != nil {
		return err
	}
	if err := p.openStore(launch); err != nil {
		return err
	}
	if _, err := p.store.Reload(ctx); err != nil {
		return invalid(s.config, err)
	}
	for _, w := range p.store.Snapshot().Warnings() {
		say(warnings, "warning", w.String())
	}
	return nil
}
