package privilege

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// outputLimit is how long we wait, after the program's end, for the rest of what it wrote: a child of it may still hold
// the pipe open.
const outputLimit = time.Second

// Start starts a command as an account that has these capabilities and can never get another one: no setuid program gives
// it more. The command gets the following, and nothing else of ours:
//
//   - a session of its own without a terminal; "/" as the working directory; umask 0077; our resource limits;
//   - standard input from /dev/null; cmd.Stdout and cmd.Stderr, or a pipe where that is a terminal or another
//     device, which the command could read as well; cmd.ExtraFiles;
//   - the variables of cmd.Env that childEnvironment lists, and those that named adds by name.
//
// Other descriptors must be close-on-exec already ([CloseOnExec]).
func Start(cmd *exec.Cmd, a *Account, caps []uintptr, named []string) error {
	cmd.Dir, cmd.Stdin = "/", nil
	cmd.Stdout, cmd.Stderr = withoutDevice(cmd.Stdout), withoutDevice(cmd.Stderr)
	cmd.WaitDelay = outputLimit
	cmd.Env = childEnvironment(cmd.Env, a, named)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: uint32(a.UID), Gid: uint32(a.GID), Groups: supplementary(a.Name)},
		AmbientCaps: caps,
		Setsid:      true,
	}
	return OnThread(func() error {
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
		if err := Renounce(); err != nil {
			return err
		}
		// The umask belongs to the whole process, but nothing else makes files meanwhile.
		defer unix.Umask(unix.Umask(0o077))
		return cmd.Start()
	})
}

// leaveKeyring gives this thread a session keyring of its own: a process that inherits root's keyring may use its keys.
func leaveKeyring() error {
	_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
	// Containers forbid keyctl(2), and forbid it to the child as well.
	if err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("join a session keyring: %w", err)
	}
	return nil
}

// childEnvironment selects from an environment what a daemon that runs as an account gets: what a program needs to run
// and to tell the time, what is meant for imdsfs, what a keeper says, and the variables that the instance file names.
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

// withoutDevice returns w or, if w is a terminal or another device, a writer that passes text on to it, so that the
// command itself does not get the device. /dev/null is harmless.
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

// A plainWriter writes text to a terminal and replaces control characters. It accepts everything, even if the terminal
// has gone: that must not disturb the program that writes.
type plainWriter struct {
	to   io.Writer
	rest []byte // the first bytes of an incomplete character
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

// CloseOnExec marks all descriptors but the standard ones close-on-exec: our starter may have forgotten to close some,
// and a daemon would hold them for ever.
func CloseOnExec() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}
