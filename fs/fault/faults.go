//go:build faults

// Package fault, in this build, has the process send itself a signal at a step. IMDSFS_FAULT is
// "DIRECTORY SIGNAL", where SIGNAL is KILL or STOP: whoever comes to a step for which there is a file
// of its name in the directory, with dashes for blanks, removes the file and suffers. Every step that
// is passed is appended to the file "passed" there, a line each.
package fault

import (
	"os"
	"strings"
	"syscall"
)

// At marks a step.
func At(step string) {
	directory, signal, ok := strings.Cut(os.Getenv("IMDSFS_FAULT"), " ")
	if !ok {
		return
	}
	step = strings.ReplaceAll(step, " ", "-")
	if f, err := os.OpenFile(directory+"/passed", os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666); err == nil {
		f.WriteString(step + "\n")
		f.Close()
	}
	if os.Remove(directory+"/"+step) != nil {
		return
	}
	sig := syscall.SIGKILL
	if signal == "STOP" {
		sig = syscall.SIGSTOP
	}
	syscall.Kill(syscall.Getpid(), sig)
}
