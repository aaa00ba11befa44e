// Package foreground runs a command for imdsfs run: in the process group of imdsfs, with its terminal, for as long as a
// daemon in the same process serves.
//
//	name ─→ Find ─→ Command ─→ Run ─→ the command's exit code, as a problem.Exit
//	environment ─→ Environment ─┘ ↑
//	                 Signals ─────┘ those that the terminal has not sent to the command itself
package foreground

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/problem"
)

// Exit codes of commands that do not run, or that a signal ends, as those of env(1) and shells.
const (
	exitCannotRun = 126
	exitNoCommand = 127
	exitSignal    = 128 // and the number of the signal
)

// Find finds the program of a command as a shell does. The error holds the exit code that a shell would have.
func Find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) { // whoever puts "." into PATH means it
		return "", cannotRun(name, err)
	}
	return path, nil
}

func cannotRun(name string, err error) error {
	var inner *exec.Error
	if errors.As(err, &inner) {
		err = inner.Err
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	code, hint := exitCannotRun, "make it executable; a script needs a first line such as #!/bin/sh"
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		code, hint = exitNoCommand, "install it, or give its path"
	}
	return &problem.Exit{Code: code, Err: problem.Failed(hint, fmt.Errorf("%s: %w", problem.Printable(name), err))}
}

// Signals takes the signals that end imdsfs run and, forCommand, those that a command may want. Ignored signals stay
// ignored: nohup and shells mean that for the command as well.
func Signals(forCommand bool) <-chan os.Signal {
	taken := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
	if forCommand {
		taken = append(taken, syscall.SIGUSR1, syscall.SIGUSR2)
	}
	signals := make(chan os.Signal, 16)
	for _, sig := range taken {
		if !signal.Ignored(sig) {
			signal.Notify(signals, sig)
		}
	}
	return signals
}

// A Command is a command in our process group, with our terminal.
type Command struct {
	Program        string   // path
	Args           []string // the first is its name
	Environment    []string
	Stdout, Stderr io.Writer
	Signals        <-chan os.Signal // to pass on
	Served         <-chan error     // receives how the daemon ends
	Report         func(error)      // prints how the daemon ended, if not well

	alone  bool // the daemon has ended before the command
	failed bool // and not well
}

// Alone reports whether the daemon has ended before the command.
func (c *Command) Alone() bool { return c.alone }

// Failed reports whether the daemon has failed, which has been reported.
func (c *Command) Failed() bool { return c.failed }

// DaemonEnded reports how the daemon has ended.
func (c *Command) DaemonEnded(err error) {
	if err != nil {
		c.Report(err)
		c.failed = true
	}
}

// Run starts the command and waits until it ends. The error holds its exit code.
func (c *Command) Run() error {
	cmd := &exec.Cmd{Path: c.Program, Args: c.Args, Env: c.Environment, Stdin: os.Stdin, Stdout: c.Stdout, Stderr: c.Stderr}
	if err := cmd.Start(); err != nil {
		return cannotRun(c.Args[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	served := c.Served
	for {
		select {
		case sig := <-c.Signals:
			if !isFromKeyboard(sig) {
				cmd.Process.Signal(sig) // it may have ended
			}
		case err := <-served:
			c.alone, served = true, nil
			c.DaemonEnded(cmp.Or(err, errors.New("the metadata service has ended before the command")))
		case err := <-ended:
			return exitOf(cmd, err)
		}
	}
}

// isFromKeyboard reports whether the terminal has sent a signal. Then the command, which is in the same process group, has
// received it too.
func isFromKeyboard(sig os.Signal) bool {
	if sig != syscall.SIGINT && sig != syscall.SIGQUIT {
		return false
	}
	terminal, err := os.OpenFile("/dev/tty", os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer terminal.Close()
	foreground, err := unix.IoctlGetUint32(int(terminal.Fd()), unix.TIOCGPGRP)
	return err == nil && int(foreground) == unix.Getpgrp()
}

// exitOf returns an error with the exit code of a command, nil for 0.
func exitOf(cmd *exec.Cmd, err error) error {
	if cmd.ProcessState == nil {
		return err
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled():
		return EndedBy(status.Signal())
	case cmd.ProcessState.ExitCode() != 0:
		return &problem.Exit{Code: cmd.ProcessState.ExitCode()}
	}
	return err
}

// EndedBy returns an error with the exit code of a command that a signal ends.
func EndedBy(sig syscall.Signal) error { return &problem.Exit{Code: exitSignal + int(sig)} }
