//go:build faults

// Package fault, in this build, has the process send itself a signal at a step, once: IMDSFS_FAULT is
// "STEP SIGNAL FILE", where SIGNAL is KILL or STOP, and FILE is removed by whoever comes to the step
// first and so is the one to suffer. With FILE alone (no step) every step that is passed is appended
// to it, a line each.
package fault

import (
	"os"
	"strings"
	"syscall"
)

// At marks a step.
func At(step string) {
	words := strings.Fields(os.Getenv("IMDSFS_FAULT"))
	if len(words) == 1 {
		if f, err := os.OpenFile(words[0], os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666); err == nil {
			f.WriteString(step + "\n")
			f.Close()
		}
		return
	}
	if len(words) != 3 || words[0] != step || os.Remove(words[2]) != nil {
		return
	}
	sig := syscall.SIGKILL
	if words[1] == "STOP" {
		sig = syscall.SIGSTOP
	}
	syscall.Kill(syscall.Getpid(), sig)
}
