package daemon

import (
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
)

func silent() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// recorded are parts that record how they end, of which the one at failing cannot be handed over.
func recorded(ends *[]string, failing int) (parts []part) {
	for i, name := range []string{"directory", "lock", "mount", "http"} {
		p := part{Close: func() { *ends = append(*ends, "close "+name) }}
		if name != "directory" {
			p.HandOver = func() error {
				*ends = append(*ends, "hand over "+name)
				if i == failing {
					return errors.New("it cannot")
				}
				return nil
			}
		}
		parts = append(parts, p)
	}
	return append(parts, part{}) // with nothing to end
}

func TestPartsEndInTheOppositeOrderOfTheirStart(t *testing.T) {
	const none = -1
	for name, c := range map[string]struct {
		successor bool
		failing   int
		want      []string
	}{
		"for good":        {false, none, []string{"close http", "close mount", "close lock", "close directory"}},
		"for a successor": {true, none, []string{"hand over http", "hand over mount", "hand over lock", "close directory"}},
		"the mount cannot be handed over": {true, 2, []string{
			"hand over http", "hand over mount", "close mount", "close lock", "close directory",
		}},
	} {
		var ends []string
		d := &Daemon{Start: Start{Log: silent()}, parts: recorded(&ends, c.failing), successor: c.successor}
		d.endParts()
		if !slices.Equal(ends, c.want) || d.successor != (c.successor && c.failing == none) {
			t.Errorf("%s: %q, want %q; a successor: %v", name, ends, c.want, d.successor)
		}
	}
}

// The alert on imdsfs_publish_failures_total depends on it.
func TestARefreshThatFailsIsAPublishFailure(t *testing.T) {
	clock := clock.NewManual(time.Unix(1e9, 0))
	i := &Instance{settings: &Settings{}, log: silent(), clock: clock, store: source.NewStore(func() build.Env { return build.Env{Now: clock.Now()} })}
	i.refresh() // nothing has been read yet
	if n := i.observer.failed.Load(); n != 1 || !i.retry.Equal(clock.Now().Add(refreshRetry)) {
		t.Errorf("%d failures, the next try at %v", n, i.retry)
	}
}
