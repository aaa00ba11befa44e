package tomlfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/safepath"
)

// A DeniedError is about a file that the user of this process may not read, or a directory on the way to it that he may
// not enter. It is [fs.ErrPermission].
type DeniedError struct {
	text string
	Hint string // the command that gives him the right
}

func (e *DeniedError) Error() string { return e.text }

// Unwrap makes it fs.ErrPermission.
func (e *DeniedError) Unwrap() error { return fs.ErrPermission }

// deniedDir makes a DeniedError of an error of a walk, if that was kept from a name by the directory that holds it.
func deniedDir(err error) error {
	var pathErr *fs.PathError
	if !errors.As(err, &pathErr) || !errors.Is(err, unix.EACCES) {
		return err
	}
	dir := filepath.Dir(pathErr.Path)
	var st unix.Stat_t
	if statErr := unix.Stat(dir, &st); statErr != nil {
		return err
	}
	return denied(dir, &st, unix.X_OK)
}

// denied says who lacks a right, R_OK or X_OK, to what is at path.
func denied(path string, st *unix.Stat_t, right uint32) *DeniedError {
	verb, letter := "read", "r"
	if right == unix.X_OK {
		verb, letter = "enter", "x"
	}
	groups, _ := unix.Getgroups()
	word := safepath.ShellWord(path)
	ours, bits, hint := os.Getegid(), right, ""
	switch {
	case int(st.Uid) == os.Geteuid():
		bits, hint = right<<6, "chmod u+"+letter+" "+word
	case int(st.Gid) == ours || slices.Contains(groups, int(st.Gid)):
		bits, hint = right<<3, "chmod g+"+letter+" "+word
	default:
		hint = fmt.Sprintf("chgrp %s %s && chmod g+%s %s", groupName(ours), word, letter, word)
	}
	if st.Mode&bits != 0 {
		hint = "its mode allows that: look at its ACL with getfacl, and check whether a security module denies it"
	}
	reason := &safepath.Error{Path: path, Reason: fmt.Sprintf("(it belongs to uid %d and gid %d, mode %04o)", st.Uid, st.Gid, st.Mode&0o7777)}
	return &DeniedError{fmt.Sprintf("permission denied: %s may not %s %s", userName(os.Geteuid()), verb, reason), hint}
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return fmt.Sprintf("%s (uid %d)", u.Username, uid)
	}
	return fmt.Sprintf("uid %d", uid)
}

func groupName(gid int) string {
	if g, err := user.LookupGroupId(strconv.Itoa(gid)); err == nil {
		return g.Name
	}
	return strconv.Itoa(gid)
}
