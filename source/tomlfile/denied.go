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

// A DeniedError says that the user of this process may not read a file, or not enter a directory on the way to it. It is
// [fs.ErrPermission].
type DeniedError struct {
	text string
	Hint string // the command that grants the right
}

func (e *DeniedError) Error() string { return e.text }

// Unwrap makes it fs.ErrPermission.
func (e *DeniedError) Unwrap() error { return fs.ErrPermission }

// deniedDir turns an error of a walk into a DeniedError, if the directory denied access to a name in it.
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

// denied says that the user of this process lacks a right, R_OK or X_OK, to path.
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
