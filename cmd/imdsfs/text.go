package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/imdsfs/imdsfs/source"
)

// Exit codes, the same for every subcommand.
const (
	exitFailed  = 1
	exitUsage   = 2 // wrong usage
	exitInvalid = 3 // the input (configuration) is invalid
	exitNo      = 4 // the answer is no: get of a path that does not exist

	// exitGivenUp is a daemon's for systemd alone, which does not start it again: what was refused with exitFailed has
	// been tried often enough.
	exitGivenUp = 69
)

// cliError is an error with the exit code it ends the program with and what to do about it.
type cliError struct {
	code int
	err  error
	hint string
}

func (e *cliError) Error() string { return e.err.Error() }
func (e *cliError) Unwrap() error { return e.err }

// failure wraps err with the exit code and a hint ("" for none).
func failure(code int, hint string, err error) error {
	return &cliError{code: code, err: err, hint: hint}
}

// lines is an error that is printed as several.
type lines []string

func (l lines) Error() string { return strings.Join(l, "\n") }

// noRoom adds to an error of writing into dir what to do if nothing more fits in, or may be written; flag is
// that with which to choose another.
func noRoom(err error, dir, flag string) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return failure(exitFailed, fmt.Sprintf("make room in %s (see df and df -i), or choose another with %s", dir, flag), err)
	case errors.Is(err, syscall.EROFS):
		return failure(exitFailed, fmt.Sprintf("choose one that can be written to with %s", flag), err)
	}
	return err
}

// codeOf is the exit code that err ends the program with, and what to do about it.
func codeOf(err error) (code int, hint string) {
	code = exitFailed
	var ce *cliError
	if errors.As(err, &ce) {
		code, hint = ce.code, ce.hint
	}
	var faults source.Faults
	if errors.As(err, &faults) {
		code = exitInvalid
	}
	return code, hint
}

// report prints err the way every subcommand does and returns the exit code:
//
//	imdsfs: error: open /etc/imdsfs/imdsfs.toml: permission denied
//	imdsfs: hint: run as root, or give a file of your own with -c
//
// Lower case, no final full stop; faults of an input one a line, each with its place.
func report(w io.Writer, err error) int {
	code, hint := codeOf(err)
	var faults source.Faults
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
