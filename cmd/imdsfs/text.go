package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/problem"
)

// Exit codes, the same for every subcommand.
const (
	exitFailed  = int(problem.KindFailed)
	exitUsage   = int(problem.KindUsage)
	exitInvalid = int(problem.KindInvalid)
	exitNo      = int(problem.KindNo)
	exitGivenUp = int(problem.KindGivenUp)
)

// lines is an error that report prints as several.
type lines []string

func (l lines) Error() string { return strings.Join(l, "\n") }

// report prints err the way every subcommand does and returns the exit code:
//
//	imdsfs: error: open /etc/imdsfs/imdsfs.toml: permission denied
//	imdsfs: hint: run as root, or give a file of your own with -c
//
// Lower case, no final full stop; faults of an input one a line, each with its place.
func report(w io.Writer, err error) int {
	code, hint := int(problem.KindOf(err)), problem.Hint(err)
	var ended *problem.Exit
	if errors.As(err, &ended) {
		if code = ended.Code; ended.Err == nil {
			return code
		}
	}
	var faults problem.Faults
	var several lines
	if errors.As(err, &faults) {
		for _, f := range faults {
			say(w, "error", f.String())
		}
	} else if errors.As(err, &several) {
		for _, l := range several {
			say(w, "error", l)
		}
	} else {
		say(w, "error", strings.TrimSuffix(err.Error(), "."))
	}
	if hint != "" {
		say(w, "hint", hint)
	}
	return code
}

// say prints an error, a hint or a warning. The text may come from a file, a name or a daemon of another user. So say escapes
// what could move the cursor, and indents further lines, so that none looks like a message of its own.
func say(w io.Writer, kind, text string) error {
	text = strings.TrimRight(text, "\n")
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = problem.Printable(line)
	}
	_, err := fmt.Fprintf(w, "imdsfs: %s: %s\n", kind, strings.Join(lines, "\n  "))
	return err
}

// changeText describes a change made at run time, without its value: "option http-tokens, set 2026-03-01T12:00:00Z by uid 0".
func changeText(c control.Changed) string {
	return fmt.Sprintf("%s %s, %s %s by %s", strings.TrimSuffix(string(c.Kind), "s"), problem.Printable(c.Name), daemon.ActionOf(c), c.Time.UTC().Format(time.RFC3339), problem.Printable(c.By))
}

// changesText counts changes: "1 change", "2 changes".
func changesText(n int) string {
	if n == 1 {
		return "1 change"
	}
	return fmt.Sprintf("%d changes", n)
}

// instanceText names an instance by its id.
func instanceText(id string) string {
	if id == "" {
		return "an instance without an id"
	}
	return problem.Printable(id)
}
