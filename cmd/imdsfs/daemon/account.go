package daemon

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"

	"github.com/imdsfs/imdsfs/source/problem"
)

// An Account is whom a daemon runs as.
type Account struct {
	Name, Home string
	UID, GID   int
}

// LookUpAccount finds the account of a user.
func LookUpAccount(name string) (*Account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, problem.Invalid("create it first, for example: useradd --system "+name, fmt.Errorf("--user %s: %w", name, err))
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	return &Account{name, u.HomeDir, uid, gid}, errors.Join(uidErr, gidErr)
}

// supplementary are the further groups of a user, by number.
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
