package main

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// A prompt is a terminal without the terminal: commands are typed one after another, and variables and the last exit
// code stay.
type prompt struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	code int
}

// newPrompt starts cmd, which is a bash that reads its commands from standard input.
func newPrompt(t *testing.T, cmd *exec.Cmd) *prompt {
	t.Helper()
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that what it runs can be killed with it
	must(t, err, cmd.Start())
	s := &prompt{t: t, cmd: cmd, in: in, out: bufio.NewReader(out)}
	t.Cleanup(s.close)
	return s
}

// run types a command and returns all that it prints, and its exit code.
func (s *prompt) run(command string) (string, int) {
	s.t.Helper()
	var hung atomic.Bool
	watch := time.AfterFunc(3*kit.Patience, func() { hung.Store(true); syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) })
	defer watch.Stop()
	fmt.Fprintf(s.in, "{ (exit %d)\n%s\n} </dev/null 2>&1\nprintf '\\0%%d\\n' $?\n", s.code, command)
	printed, err := s.out.ReadString(0)
	if err == nil {
		_, err = fmt.Fscanln(s.out, &s.code)
	}
	if err != nil {
		s.t.Fatalf("%s: hung: %v; the shell ended: %v\n%s", command, hung.Load(), err, printed)
	}
	return strings.TrimSuffix(printed, "\x00"), s.code
}

// close ends the shell. It may be called twice.
func (s *prompt) close() {
	s.in.Close()
	s.cmd.Wait()
}
