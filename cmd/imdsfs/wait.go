package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/source/problem"
)

const (
	maxWait      = 24 * time.Hour
	firstPause   = 10 * time.Millisecond // between two tries, doubled each time
	longestPause = 250 * time.Millisecond
)

// waitFlag is the flag of a subcommand that may wait for the daemon and for what it reads.
type waitFlag struct{ limit time.Duration }

func (f *waitFlag) add(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.limit, "wait", 0, "`TIME` to wait for the daemon and for PATH, such as 30s; at most 24h")
}

// get reads a path, once or until it is there. The client is that of the last answer.
func (f *waitFlag) get(ctx context.Context, flags *clientFlags, path string) (body []byte, c *client, err error) {
	if f.limit < 0 || f.limit > maxWait {
		return nil, nil, problem.Usage("say for example --wait 30s", fmt.Errorf("--wait %s: not between 0 and 24h", f.limit))
	}
	flags.local = f.limit > 0
	end := time.NewTimer(f.limit)
	defer end.Stop()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		body, err = tryGet(ctx, flags, &c, path)
		if err == nil || f.limit == 0 || !mayPass(c, err) {
			return body, c, err
		}
		if !errors.Is(err, errNotFound) {
			c = nil // the daemon may come back at another address
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-end.C:
			return nil, c, f.tried(err)
		case <-time.After(pause):
		}
	}
}

// tryGet finds the service, unless it is found already, and asks it once.
func tryGet(ctx context.Context, flags *clientFlags, c **client, path string) ([]byte, error) {
	if *c == nil {
		found, err := flags.client(ctx)
		if err != nil {
			return nil, err
		}
		*c = found
	}
	return (*c).get(ctx, path)
}

// mayPass reports whether another try may go better: nobody answers, the path is not there, or the service is not
// well. What a service refuses stays refused.
func mayPass(c *client, err error) bool {
	if c == nil {
		return errors.Is(err, errNoListener)
	}
	return errors.Is(err, errNotFound) || c.code == 0 || c.code >= http.StatusInternalServerError
}

// tried adds to an error for how long it was waited; errNotFound stays as it is, for whoever has the words for it.
func (f *waitFlag) tried(err error) error {
	var said *problem.Error
	if f.limit == 0 || !errors.As(err, &said) {
		return err
	}
	return &problem.Error{Kind: said.Kind, Hint: said.Hint, Err: fmt.Errorf("%w, after %s", said.Err, f.limit)}
}
