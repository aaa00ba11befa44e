package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/problem"
)

// Exit codes of commands that do not run, as those of env(1) and shells.
const (
	exitCannotRun = 126
	exitNoCommand = 127
)

// lookUpCommand finds a command as a shell does.
func lookUpCommand(name string) (string, error) {
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
	return &problem.Exit{Code: code, Err: problem.Failed(hint, fmt.Errorf("%s: %w", printable(name), err))}
}

// A runCommand is the command that imdsfs run runs. It is in our process group, and has our terminal.
type runCommand struct {
	program        string
	args           []string // the first is its name
	environment    []string
	stdout, stderr io.Writer
	signals        <-chan os.Signal
	served         <-chan error // how the daemon has ended
	alone          bool         // it has ended before the command
	failed         bool         // and not well
}

// leftAlone says how the daemon has ended.
func (c *runCommand) leftAlone(err error) {
	if err != nil {
		report(c.stderr, err)
		c.failed = true
	}
}

// run starts the command and waits for its end. The error holds its exit code.
func (c *runCommand) run() error {
	cmd := &exec.Cmd{Path: c.program, Args: c.args, Env: c.environment, Stdin: os.Stdin, Stdout: c.stdout, Stderr: c.stderr}
	if err := cmd.Start(); err != nil {
		return cannotRun(c.args[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case sig := <-c.signals:
			if !isFromKeyboard(sig) {
				cmd.Process.Signal(sig) // it may have ended
			}
		case err := <-c.served:
			c.alone, c.served = true, nil
			c.leftAlone(cmp.Or(err, errors.New("the metadata service has ended before the command")))
		case err := <-ended:
			return exitOf(cmd, err)
		}
	}
}

// isFromKeyboard reports whether the terminal has sent a signal: then the command, in the same process group, has got
// it too.
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

// exitOf is the error with the exit code of a command, nil for 0.
func exitOf(cmd *exec.Cmd, err error) error {
	if cmd.ProcessState == nil {
		return err
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled():
		return &problem.Exit{Code: exitSignal + int(status.Signal())}
	case cmd.ProcessState.ExitCode() != 0:
		return &problem.Exit{Code: cmd.ProcessState.ExitCode()}
	}
	return err
}

// commandEnvironment is an environment that points SDKs at the service at endpoint, with the attributes of its instance.
func commandEnvironment(ctx context.Context, environment []string, endpoint, runtimeDir string) ([]string, error) {
	flags := clientFlags{endpoint: endpoint, timeout: requestTimeout}
	c, err := flags.client(ctx)
	if err != nil {
		return nil, err
	}
	variables, err := environmentOf(ctx, c)
	if err != nil {
		return nil, err
	}
	environment = slices.Clone(environment)
	for _, name := range []string{"AWS_EC2_METADATA_DISABLED", endpointVariable + "_MODE"} {
		environment = unset(environment, name)
	}
	variables = append(variables, variable{endpointVariable, endpoint}, variable{"IMDSFS_RUNTIME_DIR", runtimeDir})
	for _, v := range append(variables, withoutProxy(environment, endpoint)...) {
		environment = append(unset(environment, v.name), v.name+"="+v.value)
	}
	return environment, nil
}

// withoutProxy has clients ask an endpoint directly where the environment names a proxy. Some SDKs, and curl, ask the
// proxy for 127.0.0.1 too.
func withoutProxy(environment []string, endpoint string) (variables []variable) {
	u, err := url.Parse(endpoint)
	named := slices.ContainsFunc([]string{"http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"}, func(name string) bool { return lookUp(environment, name) != "" })
	if err != nil || !named {
		return nil
	}
	const lower, upper = "no_proxy", "NO_PROXY"
	for _, names := range [][2]string{{lower, upper}, {upper, lower}} {
		hosts := u.Hostname()
		if others := cmp.Or(lookUp(environment, names[0]), lookUp(environment, names[1])); others != "" {
			hosts = others + "," + hosts
		}
		variables = append(variables, variable{names[0], hosts})
	}
	return variables
}

// lookUp is the value of a variable, "" without one.
func lookUp(environment []string, name string) string {
	for _, text := range slices.Backward(environment) {
		if value, ok := strings.CutPrefix(text, name+"="); ok {
			return value
		}
	}
	return ""
}

func unset(environment []string, name string) []string {
	return slices.DeleteFunc(environment, func(text string) bool { return strings.HasPrefix(text, name+"=") })
}
