package main

import (
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/imds/control"
)

func TestStatusSaysWhetherFileHandlesAreOpen(t *testing.T) {
	for _, open := range []bool{false, true} {
		var text strings.Builder
		s := &control.Status{Mount: &control.Mount{Dir: "/run/metadata", Handles: open}}
		if err := printStatus(&text, s, time.Now()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(text.String(), "file handles"); got != open {
			t.Errorf("open %v:\n%s", open, text.String())
		}
	}
}
