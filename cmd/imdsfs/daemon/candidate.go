package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/safepath"
)

const (
	tryLimit = 20 * time.Second // for another program to check the configuration
	sayLimit = 5 * time.Second  // for its output to arrive, after its end
	maxTried = 2000             // bytes of its output that an error quotes

	unknownUser = ^uint32(0) // somebody of our own user, or root
)

// A candidate is a program that may take our place. Its file is kept open, to notice when another file is at its path later.
type candidate struct {
	path string
	file *os.File // O_PATH
	stat unix.Stat_t
	// refusal says who besides root could change the program, nil if only root can.
	refusal error
}

func openCandidate(path string) (*candidate, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s is no absolute path", path)
	}
	way := &rootsWay{}
	file, entry, err := safepath.Walk(path, way)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if !entry.IsRegular() {
		file.Close()
		return nil, fmt.Errorf("%s is no program", path)
	}
	if entry.Stat.Mode&0o022 != 0 {
		way.note(entry, fmt.Sprintf("can be written by others (mode %04o)", entry.Stat.Mode&0o7777))
	}
	return &candidate{path, file, entry.Stat, way.refusal}, nil
}

// A rootsWay walks the path of a program, and notes who besides root could change what is there.
type rootsWay struct{ refusal error }

func (w *rootsWay) Name(dir, entry *safepath.Entry) error {
	switch {
	case dir.Stat.Uid != 0:
		w.note(dir, fmt.Sprintf("belongs to uid %d", dir.Stat.Uid))
	case dir.Stat.Mode&0o022 != 0 && dir.Stat.Mode&unix.S_ISVTX == 0:
		w.note(dir, fmt.Sprintf("can be written by others (mode %04o)", dir.Stat.Mode&0o7777))
	case entry.Stat.Uid != 0:
		w.note(entry, fmt.Sprintf("belongs to uid %d", entry.Stat.Uid))
	}
	return nil
}

func (w *rootsWay) Link(_, _ *safepath.Entry) error { return nil }

func (w *rootsWay) note(at *safepath.Entry, reason string) {
	if w.refusal == nil {
		w.refusal = &safepath.Error{Path: at.Path, Reason: reason}
	}
}

// changed reports whether another file is at the path by now, or the file was written to.
func (c *candidate) changed() bool {
	var now, held unix.Stat_t
	if unix.Stat(c.path, &now) != nil || unix.Fstat(int(c.file.Fd()), &held) != nil {
		return true
	}
	same := func(a, b *unix.Stat_t) bool {
		return a.Dev == b.Dev && a.Ino == b.Ino && a.Size == b.Size && a.Mtim == b.Mtim && a.Ctim == b.Ctim
	}
	return !same(&now, &c.stat) || !same(&held, &c.stat)
}

// isPrivileged reports whether this process has rights that its user does not have: capabilities.
func isPrivileged() (bool, error) {
	_, data, err := threadCapabilities()
	if err != nil {
		return false, err
	}
	return isRoot() || data[0].Permitted != 0 || data[1].Permitted != 0, nil
}

// tryProgram has another program check its flags, the instance file and the tree, as its start would. One that refuses
// them, or does not even run, does not take our place. by is the user who names it. If it would get capabilities, a user
// other than root may only name a program that root alone can change: otherwise the user's own programs would get them.
func (d *Daemon) tryProgram(ctx context.Context, path string, by uint32) (*candidate, error) {
	c, err := openCandidate(path)
	if err != nil {
		return nil, err
	}
	if err := d.try(ctx, c, by); err != nil {
		c.file.Close()
		return nil, err
	}
	return c, nil
}

// tryOwnProgram tries the program that is now at the path from which this one was started. A signal asks for it.
func (d *Daemon) tryOwnProgram(ctx context.Context) (*candidate, error) {
	program, err := OwnProgram()
	if err != nil {
		return nil, err
	}
	by := unknownUser
	if isRoot() {
		by = 0 // nobody else may send root a signal
	}
	return d.tryProgram(ctx, program, by)
}

func (d *Daemon) try(ctx context.Context, c *candidate, by uint32) error {
	privileged, err := isPrivileged()
	if err != nil {
		return err
	}
	if privileged && by != 0 && c.refusal != nil {
		return fmt.Errorf("%s would run with capabilities, but %w: have root run imdsfs upgrade, or move the program to where only root can write", c.path, c.refusal)
	}
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	said, err := c.run(ctx, "version")
	if err == nil && !strings.HasPrefix(said, "imdsfs ") {
		err = fmt.Errorf("%s is no imdsfs: it says %q to version", c.path, said)
	}
	if err == nil {
		err = c.tryServe(ctx, os.Args[1:], d.Settings.File)
	}
	if err != nil {
		return err
	}
	return c.unchanged()
}

// TrialFlag is the flag with which serve checks everything and ends before it acts.
const TrialFlag = "trial"

// tryServe has the program check the arguments with which it would be run, as a start would. An older one does not know
// the flag for that: then --help checks the flags, and check the instance file.
func (c *candidate) tryServe(ctx context.Context, args []string, config string) error {
	said, err := c.run(ctx, slices.Insert(slices.Clone(args), 1, "--"+TrialFlag)...)
	if err == nil || !strings.Contains(said, "unknown flag: --"+TrialFlag) {
		return err
	}
	if _, err := c.run(ctx, append(slices.Clone(args), "--help")...); err != nil || config == "" {
		return err
	}
	_, err = c.run(ctx, "check", "--quiet", config)
	return err
}

// run runs the program without capabilities, and returns the beginning of its output.
func (c *candidate) run(ctx context.Context, args ...string) (string, error) {
	var said beginning
	cmd := exec.CommandContext(ctx, c.path, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = sayLimit
	err := onThread(func() error { return errors.Join(renounce(), cmd.Start()) })
	if err == nil {
		err = cmd.Wait()
	}
	text := string(bytes.TrimSpace(said.text))
	if err != nil {
		return text, fmt.Errorf("%s %s: %w: %s", c.path, strings.Join(args, " "), err, text)
	}
	return text, nil
}

// unchanged is an error if the program that was tried is not the one that would be run.
func (c *candidate) unchanged() error {
	if c.changed() {
		return fmt.Errorf("%s has changed since it was tried: try again", c.path)
	}
	return nil
}

// A beginning keeps the first bytes that are written to it.
type beginning struct{ text []byte }

func (b *beginning) Write(p []byte) (int, error) {
	b.text = append(b.text, p[:min(len(p), maxTried-len(b.text))]...)
	return len(p), nil
}
