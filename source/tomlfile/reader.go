package tomlfile

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/safepath"
)

// A reader is the user for whom the files are read that an instance file names, and what the daemon does. The zero
// reader is for an instance file of root's, or of the user of this process. Every other instance file is foreign, and so
// is one that others can write:
//
//   - It names only files that its owner could read himself; if others can write it, only files that everybody can
//     read. Groups are not looked up: what a mode gives the group counts only if it gives it to everybody.
//   - No key of it acts with the rights of the daemon: no KEY-env, and of [server] only listen and mount.
//
// For every reader, a symbolic link is followed only if it belongs to root, to the user of this process, or to the owner
// of what it leads to.
type reader struct {
	foreign string // why the instance file is: "belongs to uid 1000"; "" if it is not
	remedy  string // a command that makes it root's alone
	owner   uint32
	all     bool // others can write it
}

// readerFor is the reader for an instance file. Path is as the user gave it.
func readerFor(path string, st *unix.Stat_t) reader {
	var reasons, remedies []string
	if !safepath.IsOurs(st.Uid) {
		reasons = append(reasons, fmt.Sprintf("belongs to uid %d", st.Uid))
		remedies = append(remedies, "chown root "+safepath.ShellWord(path))
	}
	writable := safepath.WritableByOthers(st)
	if writable {
		reasons = append(reasons, fmt.Sprintf("can be written by others (mode %04o)", st.Mode&0o7777))
		remedies = append(remedies, "chmod go-w "+safepath.ShellWord(path))
	}
	return reader{strings.Join(reasons, " and "), strings.Join(remedies, " && "), st.Uid, writable}
}

// A way is one walk to a file.
type way struct {
	reader
	// othersLink: it went through a link of neither root nor the user of this process.
	othersLink bool
}

var _ safepath.Checker = (*way)(nil)

// Name implements [safepath.Checker]: the reader must be allowed to enter each directory. A directory is refused before
// a name is looked up in it: the reader must not learn whether the name exists.
func (w *way) Name(dir, entry *safepath.Entry) error {
	for _, d := range []*safepath.Entry{dir, entry} {
		if d.IsDir() && !w.may(d, unix.X_OK) {
			return w.refusal(d, "enter")
		}
	}
	return nil
}

// Link implements [safepath.Checker].
func (w *way) Link(link, target *safepath.Entry) error {
	if safepath.IsOurs(link.Stat.Uid) {
		return nil
	}
	w.othersLink = true
	if link.Stat.Uid == target.Stat.Uid {
		return nil
	}
	return &safepath.Error{
		Path:   link.Path,
		Reason: fmt.Sprintf("is a symbolic link of uid %d that leads to a file of uid %d", link.Stat.Uid, target.Stat.Uid),
		Hint:   "name what it leads to, or make the link root's with chown -h",
	}
}

// target refuses what is no regular file, or not for this reader.
func (w *way) target(f *os.File, entry *safepath.Entry) error {
	if !entry.IsRegular() {
		return &irregularError{safepath.Error{
			Path:   entry.Path,
			Reason: fmt.Sprintf("is not a regular file (it belongs to uid %d)", entry.Stat.Uid),
			Hint:   "name a regular file",
		}}
	}
	if !w.may(entry, unix.R_OK) {
		return w.refusal(entry, "read")
	}
	if w.foreign == "" && !w.othersLink {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return err
	}
	switch uint32(st.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.SECURITYFS_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC:
		// What they show depends on who opens them, whatever their mode says: /proc/PID/maps, /proc/iomem.
		return &safepath.Error{
			Path:   entry.Path,
			Reason: fmt.Sprintf("is not stored anywhere (it is a file of the kernel's, and belongs to uid %d)", entry.Stat.Uid),
			Hint:   "name a copy of it",
		}
	}
	return nil
}

// may reports whether the reader has a right to a file or directory: R_OK, or X_OK.
func (r reader) may(entry *safepath.Entry, right uint32) bool {
	if r.foreign == "" {
		return true
	}
	if !r.all && entry.Stat.Uid == r.owner {
		return entry.Stat.Mode&(right<<6) != 0
	}
	everybody := right<<3 | right
	return entry.Stat.Mode&everybody == everybody
}

func (r reader) refusal(entry *safepath.Entry, verb string) error {
	who, why := fmt.Sprintf("uid %d", r.owner), fmt.Sprintf("uid %d, who owns the instance file, may not %s it", r.owner, verb)
	if r.all {
		who, why = "everybody", fmt.Sprintf("others can write the instance file, and not everybody may %s this", verb)
	}
	return &safepath.Error{
		Path:   entry.Path,
		Reason: fmt.Sprintf("belongs to uid %d (mode %04o): %s", entry.Stat.Uid, entry.Stat.Mode&0o7777, why),
		Hint:   fmt.Sprintf("name a file that %s may read, or check what the instance file says, and then %s", who, r.remedy),
	}
}

// An irregularError is about a directory, a FIFO, a socket or a device.
type irregularError struct{ refusal safepath.Error }

func (*irregularError) Error() string { return "not a regular file" }

// acts makes a fault of a key that acts with the rights of the daemon, if the file is foreign. Otherwise it reports
// true.
func (n node) acts(instead string) bool {
	r := n.d.reader
	if r.foreign == "" {
		return true
	}
	n.fault("acts with the daemon's rights, and this file "+r.foreign, instead+", or check what the file says, and then "+r.remedy)
	return false
}
