package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// outputLimit is how long what a daemon has written is waited for after its end: a child of its may hold the pipe.
const outputLimit = time.Second

// StartAs starts a command as somebody who has these capabilities and can never get any other: no setuid
// program gives him more. What he gets of ours is this, and nothing else:
//
//   - a session of his own without a terminal; "/" as the working directory; umask 0077; our resource limits;
//   - standard input from /dev/null; cmd.Stdout and cmd.Stderr, or a pipe where that is a terminal or another
//     device, which he could read as well; cmd.ExtraFiles;
//   - the variables of cmd.Env that childEnvironment lists. named are further names.
//
// Other descriptors must be close-on-exec already (keepFromChildren).
func StartAs(cmd *exec.Cmd, a *Account, caps []uintptr, named []string) error {
	cmd.Dir, cmd.Stdin = "/", nil
	cmd.Stdout, cmd.Stderr = withoutDevice(cmd.Stdout), withoutDevice(cmd.Stderr)
	cmd.WaitDelay = outputLimit
	cmd.Env = childEnvironment(cmd.Env, a, named)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: uint32(a.UID), Gid: uint32(a.GID), Groups: supplementary(a.Name)},
		AmbientCaps: caps,
		Setsid:      true,
	}
	return onThread(func() error {
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			if slices.Contains(caps, c) {
				continue
			}
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) { // unknown to this kernel
				return fmt.Errorf("drop capability %d: %w", c, err)
			}
		}
		if err := leaveKeyring(); err != nil {
			return err
		}
		if err := renounce(); err != nil {
			return err
		}
		// Of the whole process; nothing else makes files meanwhile.
		defer unix.Umask(unix.Umask(0o077))
		return cmd.Start()
	})
}

// onThread calls f on a thread of its own, which is not used again: what f changes of it, only f and the processes
// that f starts feel.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// renounce has what this thread starts get no inheritable or ambient capability, and no more privilege by its file.
func renounce() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	header, data, err := threadCapabilities()
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_NO_NEW_PRIVS): %w", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	err = unix.Capset(&header, &data[0])
	// The packaged unit forbids capset(2). An inheritable capability is then nothing that a program has: only its
	// file could give it, which was just ruled out.
	if err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("clear inheritable capabilities: %w", err)
	}
	return nil
}

// threadCapabilities are those of this thread, which of a daemon all threads have.
func threadCapabilities() (header unix.CapUserHeader, sets [2]unix.CapUserData, err error) {
	header.Version = unix.LINUX_CAPABILITY_VERSION_3
	if err = unix.Capget(&header, &sets[0]); err != nil {
		err = fmt.Errorf("capget: %w", err)
	}
	return header, sets, err
}

// leaveKeyring gives this thread a session keyring of its own: whoever inherits root's may use the keys in it.
func leaveKeyring() error {
	_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
	// Containers forbid keyctl(2), to the child as well.
	if err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("join a session keyring: %w", err)
	}
	return nil
}

// childEnvironment is what a daemon that runs as a gets of an environment: what a program needs to run and to tell
// the time, what is meant for imdsfs, what a keeper says, and the variables that the instance file names.
func childEnvironment(environment []string, a *Account, named []string) []string {
	listed := []string{"PATH", "LANG", "LANGUAGE", "TZ", "GODEBUG", "GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GOTRACEBACK"}
	prefixes := []string{"LC_", "IMDSFS_", "LISTEN_", "WATCHDOG_"}
	var kept []string
	for _, variable := range environment {
		name, _, _ := strings.Cut(variable, "=")
		if slices.Contains(listed, name) || slices.Contains(named, name) || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			kept = append(kept, variable)
		}
	}
	return append(kept, "HOME="+a.Home, "USER="+a.Name, "LOGNAME="+a.Name)
}

// withoutDevice is w, unless that is a terminal or another device: then it is a writer that passes on to it. /dev/null
// may be had.
func withoutDevice(w io.Writer) io.Writer {
	f, ok := w.(*os.File)
	if !ok {
		return w
	}
	var st, null unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
		return f
	}
	if unix.Stat(os.DevNull, &null) == nil && st.Rdev == null.Rdev && st.Mode&unix.S_IFMT == unix.S_IFCHR {
		return f
	}
	return &plainWriter{to: f}
}

// A plainWriter writes text to a terminal, without the characters that command terminals. It takes everything, even if
// the terminal has gone: whoever writes is not to be disturbed by that.
type plainWriter struct {
	to   io.Writer
	rest []byte // the beginning of a character
}

func (w *plainWriter) Write(p []byte) (int, error) {
	var plain bytes.Buffer
	text := append(w.rest, p...)
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if r == utf8.RuneError && size == 1 && !utf8.FullRune(text) {
			break
		}
		switch {
		case r == utf8.RuneError && size == 1, unicode.IsControl(r) && r != '\n' && r != '\t':
			plain.WriteByte('?')
		default:
			plain.Write(text[:size])
		}
		text = text[size:]
	}
	w.rest = bytes.Clone(text)
	w.to.Write(plain.Bytes())
	return len(p), nil
}
