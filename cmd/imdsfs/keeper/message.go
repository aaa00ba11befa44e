package keeper

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/fdstore"
)

const (
	maxMessage = 4096 // bytes
	maxRights  = 4    // descriptors that are received with a message; one is allowed

	maxComplaints  = 5 // about a daemon, in complaintsTime
	complaintsTime = time.Minute
	maxQuoted      = 120 // bytes of what it said
)

// A message is what a child says that concerns us, sd_notify(3).
type message struct {
	store  string // the name under which to hold the descriptor that comes with it
	remove string // the name of what need not be held any more
	ready  bool
	alive  bool
}

// parseMessage makes sense of a message. Whoever runs as the daemon may have sent it, with any number of descriptors:
// one comes with FDSTORE=1, and none otherwise. Names are those of fdstore alone, so that nothing else that is held
// can be replaced or removed.
func parseMessage(text string, descriptors int) (m message, err error) {
	said := map[string]string{}
	for line := range strings.SplitSeq(text, "\n") {
		key, value, _ := strings.Cut(line, "=")
		said[key] = value
	}
	m.ready, m.alive = said["READY"] == "1", said["WATCHDOG"] == "1"
	name, store, remove := said["FDNAME"], said["FDSTORE"] == "1", said["FDSTOREREMOVE"] == "1"
	switch {
	case (store || remove) && !fdstore.IsKeptName(name):
		return message{}, errors.New("FDNAME is no name of ours")
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

// holdable refuses a descriptor that is not of the kinds that a daemon keeps: sockets, files and memory, /dev/fuse. The
// close of another may wait for ever, if a file system hangs. So may this look at it. The file system of / is all right:
// nothing works if that hangs.
func holdable(fd int) error {
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
	return fmt.Errorf("what is no socket, no file and not /dev/fuse (mode %o) is not held", st.Mode)
}

// complaints bound what is logged of messages: whoever sends them decides how many there are.
type complaints struct {
	mu    sync.Mutex
	since time.Time
	said  int // since then
	left  int // not said since the last that was
}

// next reports whether one more may be said now, and how many before it were not.
func (c *complaints) next(now time.Time) (left int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since.IsZero() || now.Sub(c.since) >= complaintsTime {
		c.since, c.said = now, 0
	}
	if c.said >= maxComplaints {
		c.left++
		return 0, false
	}
	c.said++
	left, c.left = c.left, 0
	return left, true
}

// complain logs what is wrong with a message.
func (k *Keeper) complain(format string, args ...any) {
	left, ok := k.complaints.next(time.Now())
	if !ok {
		return
	}
	text := fmt.Sprintf(format, args...)
	if left > 0 {
		text += fmt.Sprintf(" (%d more messages like this were not logged)", left)
	}
	k.Log("%s", text)
}

// quoted is the beginning of what a child said, fit for a log.
func quoted(text string) string { return fmt.Sprintf("%+q", text[:min(len(text), maxQuoted)]) }
