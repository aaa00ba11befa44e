package handover

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxMessage = 4096 // bytes
	maxRights  = 4    // descriptors that we receive with a message; one is allowed

	maxBadLogged = 5 // bad messages that are logged in badPeriod
	badPeriod    = time.Minute
	maxQuoted    = 120 // bytes of a bad message in the log
)

// A message is the part of a child's sd_notify(3) message that concerns a keeper.
type message struct {
	store  string // the name under which to hold the descriptor that comes with it
	remove string // the name of what the keeper is to hold no longer
	ready  bool
	alive  bool
}

// parseMessage parses a message. Any process of the daemon's user may have sent it, with any number of descriptors; one is
// right with FDSTORE=1, and none otherwise. Only a Store's names are right, so that no message can replace or remove
// anything else that is held.
func parseMessage(text string, descriptors int) (m message, err error) {
	fields := map[string]string{}
	for line := range strings.SplitSeq(text, "\n") {
		key, value, _ := strings.Cut(line, "=")
		fields[key] = value
	}
	m.ready, m.alive = fields["READY"] == "1", fields["WATCHDOG"] == "1"
	name, store, remove := fields["FDNAME"], fields["FDSTORE"] == "1", fields["FDSTOREREMOVE"] == "1"
	switch {
	case (store || remove) && !IsFDName(name):
		return message{}, errors.New("FDNAME is not one of our names")
	case store && descriptors != 1:
		return message{}, fmt.Errorf("FDSTORE=1 comes with %d descriptors, not 1", descriptors)
	case !store && descriptors != 0:
		return message{}, fmt.Errorf("%d descriptors come without FDSTORE=1", descriptors)
	case store:
		m.store = name
	case remove:
		m.remove = name
	}
	return m, nil
}

// checkHoldable refuses a descriptor of a kind that no daemon keeps; it keeps sockets, files and memory, and /dev/fuse. To
// close another kind may hang with its file system, and so may this check. The file system of / is allowed: nothing works
// if that hangs.
func checkHoldable(fd int) error {
	var st, root unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &st), unix.Stat("/", &root)); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFCHR:
		if st.Rdev == unix.Mkdev(10, 229) {
			return nil
		}
	case unix.S_IFREG:
		if st.Dev == root.Dev {
			return nil
		}
		var fs unix.Statfs_t
		if err := unix.Fstatfs(fd, &fs); err != nil {
			return fmt.Errorf("statfs: %w", err)
		}
		switch uint32(fs.Type) {
		case unix.FUSE_SUPER_MAGIC, unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC, unix.AFS_SUPER_MAGIC, unix.V9FS_MAGIC:
			return errors.New("a file of a file system that may hang is not held")
		}
		return nil
	}
	return fmt.Errorf("only sockets, files and /dev/fuse are held, and it is none (mode %o)", st.Mode)
}

// A rateLimit bounds how many bad messages are logged: their sender decides how many there are.
type rateLimit struct {
	mu     sync.Mutex
	since  time.Time
	logged int // since then
	left   int // not logged since the last one that was
}

// next reports whether one more may be logged now, and how many before it were not.
func (c *rateLimit) next(now time.Time) (left int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since.IsZero() || now.Sub(c.since) >= badPeriod {
		c.since, c.logged = now, 0
	}
	if c.logged >= maxBadLogged {
		c.left++
		return 0, false
	}
	c.logged++
	left, c.left = c.left, 0
	return left, true
}

// logBad logs what is wrong with a message.
func (k *Keeper) logBad(format string, args ...any) {
	left, ok := k.badLimit.next(time.Now())
	if !ok {
		return
	}
	text := fmt.Sprintf(format, args...)
	if left > 0 {
		text += fmt.Sprintf(" (%d more messages like this were not logged)", left)
	}
	k.Log("%s", text)
}

// quoted returns the beginning of a message in a form that is fit for a log.
func quoted(text string) string { return fmt.Sprintf("%+q", text[:min(len(text), maxQuoted)]) }
