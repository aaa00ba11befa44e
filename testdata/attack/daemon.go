package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A daemon is an imdsfs serve that runs, or that failed to start.
type daemon struct {
	cmd     *exec.Cmd
	runtime string
	mount   string // "" without
	log     *logBuffer
	exited  chan struct{}
	once    sync.Once
	end     error // of Wait, when exited is closed
}

// Ways to start a daemon that differ from the default.
type how struct {
	prefix   []string // before the program: nsenter, prlimit, …
	argv0    string
	env      []string
	terminal *os.File // its controlling terminal, and standard streams
}

// serve starts a daemon with an instance file of root and waits until it is ready. It gets directories of its own unless
// the flags have --runtime-dir and --state-dir.
func (w *world) serve(text string, flags ...string) (*daemon, error) {
	return w.serveAs(how{}, text, flags...)
}

func (w *world) serveAs(h how, text string, flags ...string) (*daemon, error) {
	d, err := w.launch(h, text, flags...)
	if err != nil {
		return nil, err
	}
	return d, d.ready()
}

// launch starts a daemon and does not wait.
func (w *world) launch(h how, text string, flags ...string) (*daemon, error) {
	file := w.dir() + "/instance.toml"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return w.launchFile(h, file, flags...)
}

func (w *world) launchFile(h how, file string, flags ...string) (*daemon, error) {
	d := &daemon{log: &logBuffer{}, exited: make(chan struct{}), runtime: flagValue("--runtime-dir", flags), mount: flagValue("--mount", flags)}
	args := append([]string{"serve", "-c", file}, flags...)
	if d.runtime == "" {
		dir := w.dir()
		d.runtime = dir + "/run"
		args = append(args, "--runtime-dir", d.runtime, "--state-dir", dir+"/state")
	}
	if d.mount == "none" {
		d.mount = ""
	}
	line := append(append(append([]string{}, h.prefix...), imdsfs), args...)
	d.cmd = exec.Command(line[0], line[1:]...)
	if h.argv0 != "" {
		d.cmd.Args[0] = h.argv0
	}
	d.cmd.Dir = base
	d.cmd.Env = append([]string{"PATH=" + programDir + ":/usr/sbin:/usr/bin:/sbin:/bin", "ROOTS_SECRET=" + environSecret}, h.env...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.WaitDelay = time.Second
	if h.terminal != nil {
		d.cmd.Stdin, d.cmd.Stdout, d.cmd.Stderr = h.terminal, h.terminal, h.terminal
		d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.daemons = append(w.daemons, d)
	w.mu.Unlock()
	go func() {
		d.end = d.cmd.Wait()
		close(d.exited)
	}()
	return d, nil
}

func flagValue(name string, flags []string) string {
	for i, f := range flags[:max(len(flags)-1, 0)] {
		if f == name {
			return flags[i+1]
		}
	}
	return ""
}

var errEnded = errors.New("the daemon ended")

// ready waits until the daemon is ready.
func (d *daemon) ready() error {
	err := until("ready", func() bool { return strings.Contains(d.log.String(), "msg=ready") || d.ended() })
	switch {
	case err == nil && d.ended():
		err = errEnded
	case err == nil:
		return nil
	}
	return fmt.Errorf("%w\n%s", err, d.log)
}

func (d *daemon) ended() bool {
	select {
	case <-d.exited:
		return true
	default:
		return false
	}
}

func (d *daemon) alive() error {
	if d.ended() {
		return fmt.Errorf("%w: %v\n%s", errEnded, d.end, d.log)
	}
	return nil
}

func (d *daemon) pid() int { return d.cmd.Process.Pid }

// address is where the daemon listens, host:port.
func (d *daemon) address() (string, error) {
	text, err := os.ReadFile(d.runtime + "/listen")
	address, _, _ := strings.Cut(string(text), "\n")
	return address, err
}

// stop ends the daemon as systemd would, by force if necessary.
func (d *daemon) stop() {
	d.once.Do(func() {
		d.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-d.exited:
		case <-time.After(patience / 2):
			d.cmd.Process.Kill()
			<-d.exited
		}
		if d.mount != "" {
			unix.Unmount(d.mount, unix.MNT_DETACH) // fails if, as it should be, nothing is mounted
		}
	})
}

// serveKept starts a daemon of user nobody behind a keeper of root, on a terminal of root.
func (w *world) serveKept() (*daemon, error) {
	master, slave, err := openTerminal()
	if err != nil {
		return nil, err
	}
	defer slave.Close()
	file := w.dir() + "/instance.toml"
	if err := os.WriteFile(file, []byte(instance(keptID, "")), 0o644); err != nil {
		return nil, err
	}
	dir := w.dir()
	d, err := w.launchFile(how{terminal: slave}, file, "--keep", "--user", "nobody", "--listen", keptDoor, "--mount", "/run/kept",
		"--runtime-dir", dir+"/run", "--state-dir", dir+"/state")
	if err != nil {
		return nil, err
	}
	go io.Copy(d.log, master)
	return d, d.ready()
}

// worker is the process behind a keeper.
func (d *daemon) worker() (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", d.pid()))
	if err != nil {
		return 0, err
	}
	for tid := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.Atoi(tid); err == nil {
			return pid, nil
		}
	}
	// Another thread of the keeper may have started it.
	dirs, err := os.ReadDir("/proc")
	for _, e := range dirs {
		if parentOf(e.Name()) == strconv.Itoa(d.pid()) {
			return strconv.Atoi(e.Name())
		}
	}
	return 0, fmt.Errorf("the keeper has no daemon: %w", err)
}

func parentOf(pid string) string { return statField(pid, 4) }

// statField is a field of /proc/PID/stat, by its number in proc(5), from 3.
func statField(pid string, number int) string {
	text, _ := os.ReadFile("/proc/" + pid + "/stat")
	fields := strings.Fields(string(text)[strings.LastIndexByte(string(text), ')')+1:])
	if len(fields) <= number-3 {
		return ""
	}
	return fields[number-3]
}

// openTerminal makes a pseudo-terminal.
func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("/dev/ptmx: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, nil, errno
	}
	return os.NewFile(uintptr(fd), "terminal"), os.NewFile(peer, "terminal"), nil
}
