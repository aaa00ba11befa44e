package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

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

// exitError ends the program with an exit code that is no [problem.Kind]: that of mount(8), of a command, of a daemon.
type exitError struct {
	code int
	err  error // nil if somebody else has explained it already
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// lines is an error that is printed as several.
type lines []string

func (l lines) Error() string { return strings.Join(l, "\n") }

// noRoom adds to an error of writing into dir what to do if nothing more fits in, or may be written; flag is
// that with which to choose another.
func noRoom(err error, dir, flag string) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return problem.Failed(fmt.Sprintf("make room in %s (see df and df -i), or choose another with %s", dir, flag), err)
	case errors.Is(err, syscall.EROFS):
		return problem.Failed(fmt.Sprintf("choose one that can be written to with %s", flag), err)
	}
	return err
}

// kindOf is the kind of an error; faults of the input are no other error's business.
func kindOf(err error) problem.Kind {
	var faults problem.Faults
	if errors.As(err, &faults) {
		return problem.KindInvalid
	}
	return problem.KindOf(err)
}

// report prints err the way every subcommand does and returns the exit code:
//
//	imdsfs: error: open /etc/imdsfs/imdsfs.toml: permission denied
//	imdsfs: hint: run as root, or give a file of your own with -c
//
// Lower case, no final full stop; faults of an input one a line, each with its place.
func report(w io.Writer, err error) int {
	code, hint := int(kindOf(err)), problem.Hint(err)
	var ended *exitError
	if errors.As(err, &ended) {
		if code = ended.code; ended.err == nil {
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

// say prints what is said of something: error, hint or warning. The text may come from a file, a name or a daemon of
// somebody else: it cannot move the cursor, and further lines of it are indented, so that none looks like another's.
func say(w io.Writer, kind, text string) error {
	text = strings.TrimRight(text, "\n")
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	_, err := fmt.Fprintf(w, "imdsfs: %s: %s\n", kind, strings.Join(lines, "\n  "))
	return err
}
