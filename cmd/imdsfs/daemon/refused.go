package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/source/atomicfile"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/safepath"
)

// A start is refused if the daemon ends with an error, and not by a signal, before it is ready. After [problem.KindInvalid] and
// [problem.KindUsage] nobody starts it again, because that would fail too. After [problem.KindFailed] systemd starts it again,
// MaxRetries times, each time after a longer wait. The daemon counts the refused starts in its run-time directory, and the
// mount helper waits before it mounts. The last refused daemon ends with [problem.KindGivenUp]. Without systemd there is one
// try.
const (
	// MaxRetries is how often systemd starts a refused daemon again.
	MaxRetries = 5
	// retryStep is the wait before the first retry; it doubles with each.
	retryStep     = time.Second
	retryVariable = "IMDSFS_RETRY_STEP" // another step
	maxRetryWait  = 30 * time.Second    // TimeoutStartSec= of the unit is longer

	refusedName = "refused" // file of the run-time directory: how many starts were refused in a row
	// KeptRefusal is the name under which the mount helper keeps its error, which the daemon then reports.
	KeptRefusal = "refusal"
)

// refuse decides what a failed start leaves behind. If a predecessor has served a tree and its mount is kept, the mount stays
// for the next start. Otherwise nothing stays: a mount without a daemon would hang its readers.
func (d *Daemon) refuse(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = nil // a stop is no failure
	} else if d.Handover.Durable() && slices.ContainsFunc(d.instances, (*Instance).wasServed) {
		d.successor = true
		return err
	}
	for _, i := range d.instances {
		i.abandon()
	}
	d.Handover.DropAll()
	return err
}

// wasServed reports whether a predecessor has served a tree.
func (i *Instance) wasServed() bool { return i.predecessor.Snapshot() != nil }

// countRefusal counts a refused start for the next one. After the last retry the error is of [problem.KindGivenUp].
func (d *Daemon) countRefusal(err error) error {
	if !d.Handover.BySystemd() {
		return err
	}
	dir := d.Settings.RuntimeDir
	hint := problem.Hint(err)
	if problem.KindOf(err) != problem.KindFailed {
		forgetRefusals(dir)
		return err
	}
	refusals := 0
	if text, err := atomicfile.Read(filepath.Join(dir, refusedName), maxRefusedFile); err == nil {
		refusals = parseRefusals(text)
	}
	if refusals < MaxRetries {
		countErr := atomicfile.Write(filepath.Join(dir, refusedName), []byte(strconv.Itoa(refusals+1)), 0o600)
		if countErr == nil {
			return err
		}
		forgetRefusals(dir)
		return problem.GivenUp(hint, fmt.Errorf("%w (not tried again: %w)", err, countErr))
	}
	forgetRefusals(dir)
	return problem.GivenUp(hint, fmt.Errorf("%w (given up after %d retries)", err, MaxRetries))
}

const maxRefusedFile = 16 // bytes

// parseRefusals parses a number from 0 to MaxRetries; 0 if text is not a number.
func parseRefusals(text []byte) int {
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return min(max(n, 0), MaxRetries)
}

// forgetRefusals starts the count anew.
func forgetRefusals(runtimeDir string) { os.Remove(filepath.Join(runtimeDir, refusedName)) }

// A Turn is what the mount helper, as root, reads about refused starts in the directory of the daemon's user. At worst it makes
// the helper wait for maxRetryWait.
type Turn struct {
	dir      *os.File // O_PATH, nil if there is none
	Refusals int      // in a row, so far
}

// OpenTurn reads the run-time directory of a daemon of this user. It takes anything unexpected there for no refusal; the daemon
// says what is wrong.
func OpenTurn(runtimeDir string, uid int) Turn {
	dir, err := safepath.Policy{Users: []int{uid}}.OpenDir(runtimeDir)
	if err != nil {
		return Turn{}
	}
	t := Turn{dir: dir}
	fd, err := unix.Openat(int(dir.Fd()), refusedName, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return t
	}
	f := os.NewFile(uintptr(fd), refusedName)
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		if text, err := io.ReadAll(io.NewSectionReader(f, 0, maxRefusedFile)); err == nil {
			t.Refusals = parseRefusals(text)
		}
	}
	return t
}

// Wait returns how long to wait before this start.
func (t Turn) Wait() time.Duration {
	if t.Refusals == 0 {
		return 0
	}
	step := retryStep
	if d, err := time.ParseDuration(os.Getenv(retryVariable)); err == nil && d >= 0 {
		step = min(d, maxRetryWait)
	}
	return min(step<<(t.Refusals-1), maxRetryWait)
}

// Forget starts the count anew.
func (t Turn) Forget() {
	if t.dir != nil {
		unix.Unlinkat(int(t.dir.Fd()), refusedName, 0)
	}
}

// Close closes the directory.
func (t Turn) Close() { t.dir.Close() } // nil or not

// A passedRefusal is an error that the mount helper passes to the daemon, as JSON. The daemon reports it, once, and exits with
// its code.
type passedRefusal struct {
	Kind  problem.Kind `json:"code"`
	Error string       `json:"error"`
	Hint  string       `json:"hint"`
}

// LeaveRefusal passes an error of the mount helper to the daemon of the unit.
func LeaveRefusal(store *handover.Store, refused error) error {
	r := passedRefusal{Kind: problem.KindOf(refused), Error: refused.Error(), Hint: problem.Hint(refused)}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return store.KeepText(KeptRefusal, text)
}

// checkMountHelper returns the error with which the mount helper failed before the daemon was started.
func (d *Daemon) checkMountHelper(context.Context) (part, error) {
	text := d.Handover.InheritedText(KeptRefusal)
	d.Handover.Drop(KeptRefusal)
	var r passedRefusal
	switch {
	case text == nil:
		return part{}, nil
	case json.Unmarshal(text, &r) != nil:
		return part{}, errors.New("the mount helper failed, and its error cannot be read")
	}
	return part{}, &problem.Error{Kind: r.Kind, Hint: r.Hint, Err: errors.New(r.Error)}
}
