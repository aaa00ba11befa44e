package handover

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

	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/source/safepath"
)

const (
	tryLimit    = 20 * time.Second // for a candidate to look at the instance file
	outputLimit = 5 * time.Second  // for the rest of a candidate's output to arrive, after its end
	maxOutput   = 2000             // bytes of its output that we report

	// TrialFlag tells serve to end before it begins to act.
	TrialFlag = "trial"

	// UnknownUser is the sender of a signal: root, or the daemon's own user.
	UnknownUser = ^uint32(0)
)

// A Candidate is a program that may take our place. It holds the file open, to detect whether the path names another file
// later.
type Candidate struct {
	path string
	file *os.File // O_PATH
	stat unix.Stat_t
	// refusal says who besides root could change the program; nil if nobody could.
	refusal error
}

// A Trial is what a candidate is tried with.
type Trial struct {
	By     uint32   // the user who names the candidate, or UnknownUser
	Args   []string // of the daemon, without the program's name: serve and its flags
	Config string   // path of the instance file, "" for none
}

// Try tries a program as a candidate: with the daemon's own flags it looks at the instance file and the tree, as a start
// would. Try refuses a program that finds a fault or does not run. Where a program in our place would get capabilities, a user
// other than root may name only a program that nobody but root can change: otherwise the user's programs would get them.
func Try(ctx context.Context, path string, t Trial) (*Candidate, error) {
	c, err := OpenCandidate(path)
	if err != nil {
		return nil, err
	}
	if err := c.try(ctx, t); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// OpenCandidate opens a program by its absolute path, without running it.
func OpenCandidate(path string) (*Candidate, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s is not an absolute path", path)
	}
	owners := &pathOwners{}
	file, entry, err := safepath.Walk(path, owners)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if !entry.IsRegular() {
		file.Close()
		return nil, fmt.Errorf("%s is not a program", path)
	}
	if entry.Stat.Mode&0o022 != 0 {
		owners.note(entry, fmt.Sprintf("can be written by others (mode %04o)", entry.Stat.Mode&0o7777))
	}
	return &Candidate{path, file, entry.Stat, owners.refusal}, nil
}

// A pathOwners walks the path to a program, and notes who besides root could change what the path names.
type pathOwners struct{ refusal error }

func (w *pathOwners) Name(dir, entry *safepath.Entry) error {
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

func (w *pathOwners) Link(_, _ *safepath.Entry) error { return nil }

func (w *pathOwners) note(at *safepath.Entry, reason string) {
	if w.refusal == nil {
		w.refusal = &safepath.Error{Path: at.Path, Reason: reason}
	}
}

// Close closes the program's file.
func (c *Candidate) Close() { c.file.Close() }

// Unchanged returns an error unless the path still names the file that was opened, as it was.
func (c *Candidate) Unchanged() error {
	if c.changed() {
		return fmt.Errorf("%s has changed since it was tried: try again", c.path)
	}
	return nil
}

// changed reports whether the path names another file by now, or the file was written to.
func (c *Candidate) changed() bool {
	var now, held unix.Stat_t
	if unix.Stat(c.path, &now) != nil || unix.Fstat(int(c.file.Fd()), &held) != nil {
		return true
	}
	same := func(a, b *unix.Stat_t) bool {
		return a.Dev == b.Dev && a.Ino == b.Ino && a.Size == b.Size && a.Mtim == b.Mtim && a.Ctim == b.Ctim
	}
	return !same(&now, &c.stat) || !same(&held, &c.stat)
}

func (c *Candidate) try(ctx context.Context, t Trial) error {
	privileged, err := privilege.IsPrivileged()
	if err != nil {
		return err
	}
	if privileged && t.By != 0 && c.refusal != nil {
		return fmt.Errorf("%s would run with capabilities, but %w: have root run imdsfs upgrade, or move the program to where only root can write", c.path, c.refusal)
	}
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	output, err := c.run(ctx, "version")
	if err == nil && !strings.HasPrefix(output, "imdsfs ") {
		err = fmt.Errorf("%s is not imdsfs: version prints %q", c.path, output)
	}
	if err == nil {
		err = c.tryServe(ctx, t.Args, t.Config)
	}
	if err != nil {
		return err
	}
	return c.Unchanged()
}

// tryServe runs the program with the daemon's arguments and TrialFlag, which makes it check them as a start would. A version
// from before there was that flag refuses it; then the program parses the arguments with --help, and the instance file
// with check.
func (c *Candidate) tryServe(ctx context.Context, args []string, config string) error {
	output, err := c.run(ctx, slices.Insert(slices.Clone(args), 1, "--"+TrialFlag)...)
	if err == nil || !strings.Contains(output, "unknown flag: --"+TrialFlag) {
		return err
	}
	if _, err := c.run(ctx, append(slices.Clone(args), "--help")...); err != nil || config == "" {
		return err
	}
	_, err = c.run(ctx, "check", "--quiet", config)
	return err
}

// run runs the program with no right that its user does not have, and returns the beginning of its output.
func (c *Candidate) run(ctx context.Context, args ...string) (string, error) {
	var output firstBytes
	cmd := exec.CommandContext(ctx, c.path, args...)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = outputLimit
	err := privilege.OnThread(func() error { return errors.Join(privilege.Renounce(), cmd.Start()) })
	if err == nil {
		err = cmd.Wait()
	}
	text := string(bytes.TrimSpace(output.text))
	if err != nil {
		return text, fmt.Errorf("%s %s: %w: %s", c.path, strings.Join(args, " "), err, text)
	}
	return text, nil
}

// A firstBytes keeps the first maxOutput bytes that are written to it.
type firstBytes struct{ text []byte }

func (b *firstBytes) Write(p []byte) (int, error) {
	b.text = append(b.text, p[:min(len(p), maxOutput-len(b.text))]...)
	return len(p), nil
}
