package problem

import "fmt"

// An Exit ends the program with a status that is not a [Kind]: one of mount(8), or that of a program that we ran.
type Exit struct {
	Code int
	Err  error // nil if the reason has been printed already
}

func (e *Exit) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Code)
	}
	return e.Err.Error()
}

func (e *Exit) Unwrap() error { return e.Err }
