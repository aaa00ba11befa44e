// Package problem holds the errors that tell the user what to do. Every part of the program returns them.
//
//	package ──▶ problem.Failed(hint, err) ──▶ cmd/imdsfs: prints the error, then the hint, and exits with the kind's code
//	source  ──▶ problem.Faults ─────────────▶ cmd/imdsfs: prints one fault a line, with file, line and key
//
// A package without advice returns a plain error. An error that wraps one with a hint keeps the hint.
package problem

import "errors"

// A Kind tells whose fault an error is. Its number is the program's exit code, the same for every subcommand.
type Kind uint8

const (
	KindFailed  Kind = 1  // something went wrong while the program worked
	KindUsage   Kind = 2  // wrong usage of the command line
	KindInvalid Kind = 3  // the configuration, or a file of the state, is invalid
	KindNo      Kind = 4  // the question was valid, and the answer is no
	KindGivenUp Kind = 69 // the daemon failed to start too often: systemd does not restart it
)

// An Error is an error with a hint what to do about it.
type Error struct {
	Kind Kind
	Err  error  // what is wrong; never nil, holds no secret
	Hint string // what to do; may be empty
}

// Error returns the message without the hint, which gets a line of its own.
func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Failed returns an error of [KindFailed].
func Failed(hint string, err error) error { return &Error{KindFailed, err, hint} }

// Usage returns an error of [KindUsage].
func Usage(hint string, err error) error { return &Error{KindUsage, err, hint} }

// Invalid returns an error of [KindInvalid].
func Invalid(hint string, err error) error { return &Error{KindInvalid, err, hint} }

// No returns an error of [KindNo].
func No(hint string, err error) error { return &Error{KindNo, err, hint} }

// GivenUp returns an error of [KindGivenUp].
func GivenUp(hint string, err error) error { return &Error{KindGivenUp, err, hint} }

// Hint returns the outermost hint in the chain of err, or "".
func Hint(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}

// KindOf is the kind of err: [KindInvalid] if it holds [Faults] of an input, else that of the outermost [Error], else
// [KindFailed].
func KindOf(err error) Kind {
	var faults Faults
	if errors.As(err, &faults) {
		return KindInvalid
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindFailed
}
