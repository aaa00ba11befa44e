package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/source/problem"
)

const (
	maxWait      = 24 * time.Hour
	firstPause   = 10 * time.Millisecond // between two tries, doubled each time
	longestPause = 250 * time.Millisecond
)

// waitFlag is the flag of a subcommand that can wait for the daemon and for a path.
type waitFlag struct{ limit time.Duration }

func (f *waitFlag) add(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.limit, "wait", 0, "`TIME` to wait for the daemon and for PATH, such as 30s; at most 24h")
}

// get reads a path, once or until it exists. It returns the service of the last answer, nil without one.
func (f *waitFlag) get(ctx context.Context, flags *clientFlags, path string) (body []byte, s *service, err error) {
	if f.limit < 0 || f.limit > maxWait {
		return nil, nil, problem.Usage("say for example --wait 30s", fmt.Errorf("--wait %s: not between 0 and 24h", f.limit))
	}
	flags.local = f.limit > 0
	end := time.NewTimer(f.limit)
	defer end.Stop()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		body, err = tryGet(ctx, flags, &s, path)
		if err == nil || f.limit == 0 || !errors.Is(err, errNoListener) && !client.MayPass(err) {
			return body, s, err
		}
		if !errors.Is(err, client.ErrNotFound) {
			s = nil // the daemon may come back at another address
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-end.C:
			return nil, s, f.tried(err)
		case <-time.After(pause):
		}
	}
}

// tryGet finds the service, unless *s is one already, and asks it once.
func tryGet(ctx context.Context, flags *clientFlags, s **service, path string) ([]byte, error) {
	if *s == nil {
		found, err := flags.client(ctx)
		if err != nil {
			return nil, err
		}
		*s = found
	}
	return (*s).get(ctx, path)
}

// tried adds to an error how long get waited. It leaves [client.ErrNotFound] to the caller.
func (f *waitFlag) tried(err error) error {
	var explained *problem.Error
	if f.limit == 0 || !errors.As(err, &explained) {
		return err
	}
	return &problem.Error{Kind: explained.Kind, Hint: explained.Hint, Err: fmt.Errorf("%w, after %s", explained.Err, f.limit)}
}
