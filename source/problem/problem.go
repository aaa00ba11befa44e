// Package problem is the error that every part of the program returns when it can tell the user what to do:
//
//	package ──▶ problem.Failed(hint, err) ──▶ cmd/imdsfs: prints the error, the hint below it, and exits by the kind
//
// A package that has no advice returns a plain error; what wraps a hint keeps it.
package problem

import "errors"

// A Kind tells whose fault an error is. Its number is the exit code of the program, the same for every subcommand.
type Kind uint8

const (
	KindFailed  Kind = 1  // something went wrong while the program worked
	KindUsage   Kind = 2  // wrong usage of the command line
	KindInvalid Kind = 3  // the configuration, or what lies on the disk, is invalid
	KindNo      Kind = 4  // the question was good, and the answer is no
	KindGivenUp Kind = 69 // a daemon's start failed often enough: systemd does not start it again
)

// An Error is an error and what to do about it.
type Error struct {
	Kind Kind
	Err  error  // what is wrong; never nil, holds no secret
	Hint string // what to do; may be empty
}

// Error is the message alone; the hint gets a line of its own.
func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Failed is an error of [KindFailed].
func Failed(hint string, err error) error { return &Error{KindFailed, err, hint} }

// Usage is an error of [KindUsage].
func Usage(hint string, err error) error { return &Error{KindUsage, err, hint} }

// Invalid is an error of [KindInvalid].
func Invalid(hint string, err error) error { return &Error{KindInvalid, err, hint} }

// No is an error of [KindNo].
func No(hint string, err error) error { return &Error{KindNo, err, hint} }

// GivenUp is an error of [KindGivenUp].
func GivenUp(hint string, err error) error { return &Error{KindGivenUp, err, hint} }

// Hint is the hint that err, or what it wraps, carries; "" if none. The outermost counts.
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
