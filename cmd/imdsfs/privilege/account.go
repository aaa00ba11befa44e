// Package privilege starts programs, and calls functions, with fewer rights than this process has.
//
//	Lookup ─→ Account ─┬→ Start   a program as that user: the daemon of a keeper that root runs
//	                   └→ Do      a function as that user: imdsfs check --user
//	OnThread + Renounce           a program with no right that its user does not have: a candidate of an upgrade
//
// Linux keeps credentials a thread; [OnThread] therefore changes them on a thread that nothing else uses.
package privilege

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/imdsfs/imdsfs/source/problem"
)

// An Account is a user that a program or a function runs as.
type Account struct {
	Name, Home string
	UID, GID   int
}

// Lookup finds the account with a name, which the user gave with --user.
func Lookup(name string) (*Account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, problem.Invalid("create it first, for example: useradd --system "+name, fmt.Errorf("--user %s: %w", name, err))
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	return &Account{name, u.HomeDir, uid, gid}, errors.Join(uidErr, gidErr)
}

// supplementary returns the numbers of the further groups of a user.
func supplementary(name string) (groups []uint32) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil
	}
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			groups = append(groups, uint32(n))
		}
	}
	return groups
}

// IsRoot reports whether we are root.
func IsRoot() bool { return os.Geteuid() == 0 }
