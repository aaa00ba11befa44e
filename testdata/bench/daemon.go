package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A server is a process that serves a target.
type server struct {
	cmd    *exec.Cmd
	mount  string // "" without
	ready  time.Duration
	output bytes.Buffer // complete when the process has ended
	exited chan error
}

// start runs a command until it prints mark, on either output.
func start(mark, mount string, cmd *exec.Cmd) (*server, error) {
	s := &server{cmd: cmd, mount: mount, exited: make(chan error, 1)}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	begin := time.Now()
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	ready := make(chan time.Duration, 1)
	go func() {
		defer r.Close()
		lines := bufio.NewReader(io.TeeReader(r, &s.output))
		for {
			line, err := lines.ReadString('\n')
			if strings.Contains(line, mark) {
				ready <- time.Since(begin)
			}
			if err != nil {
				s.exited <- cmd.Wait()
				return
			}
		}
	}()
	select {
	case s.ready = <-ready:
		return s, nil
	case err := <-s.exited:
		return nil, fmt.Errorf("%s ended before it was ready: %v\n%s", filepath.Base(cmd.Path), err, s.output.String())
	case <-time.After(time.Minute):
		s.stop()
		return nil, fmt.Errorf("%s is not ready after a minute\n%s", filepath.Base(cmd.Path), s.output.String())
	}
}

// stop ends the process, and the mount too if the process has left it.
func (s *server) stop() {
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(10 * time.Second):
		s.cmd.Process.Kill()
		<-s.exited
	}
	if s.mount != "" {
		unix.Unmount(s.mount, unix.MNT_DETACH) // fails if, as it should be, nothing is mounted
	}
}

// mib is a line of /proc/PID/status in MiB: "VmRSS" or, at its highest, "VmHWM".
func (s *server) mib(key string) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "\n"+key+":")
	kib, _ := strconv.ParseFloat(strings.Fields(rest + " 0")[0], 64)
	return kib / 1024
}

// A daemon is a running imdsfs serve with a mount and HTTP.
type daemon struct {
	*server
	address string // host:port of HTTP
}

// serve starts imdsfs on an instance file and mounts it on a directory of that name.
func (e *env) serve(name, file string) (*daemon, error) {
	mount, runtimeDir := filepath.Join(e.dir, name), filepath.Join(e.dir, name+".run")
	s, err := start("msg=ready", mount, exec.Command(e.imdsfs, "serve", "-c", file, "--listen", "127.0.0.1:0",
		"--mount", mount, "--runtime-dir", runtimeDir, "--state-dir", filepath.Join(e.dir, name+".state")))
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(runtimeDir, "listen"))
	if err != nil {
		s.stop()
		return nil, err
	}
	address, _, _ := strings.Cut(string(text), "\n")
	return &daemon{server: s, address: address}, nil
}

// instanceFile writes an instance file and returns its path.
func (e *env) instanceFile(name, text string) (string, error) {
	path := filepath.Join(e.dir, name+".toml")
	return path, replaceFile(path, text)
}

// replaceFile replaces a file as editors do.
func replaceFile(path, text string) error {
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
