package privilege

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/problem"
)

// Do calls f with the rights of an account and none of ours. f runs on a thread of its own and must not leave it. Nobody
// else can look into the process meanwhile: the kernel makes a process undumpable when one of its threads changes its
// user.
func Do(a *Account, f func() error) error {
	if !IsRoot() && os.Geteuid() != a.UID {
		return problem.Failed("run it as root: sudo imdsfs check --user "+a.Name+" FILE", fmt.Errorf("--user %s: only root and that user can tell what the user may read", a.Name))
	}
	if !IsRoot() {
		return f()
	}
	return OnThread(func() error {
		if err := become(a); err != nil {
			return fmt.Errorf("--user %s: %w", a.Name, err)
		}
		return f()
	})
}

// become changes the user and the groups of this thread alone and, unless the account is root's, drops its
// capabilities. The functions of the standard library would change all threads.
func become(a *Account) error {
	groups := []int{}
	for _, g := range supplementary(a.Name) {
		groups = append(groups, int(g))
	}
	if err := unix.Setgroups(groups); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(a.GID), uintptr(a.GID), uintptr(a.GID)); errno != 0 {
		return fmt.Errorf("setresgid: %w", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(a.UID), uintptr(a.UID), uintptr(a.UID)); errno != 0 {
		return fmt.Errorf("setresuid: %w", errno)
	}
	// Some architectures have a second system call of that name, for 16-bit ids.
	got, err := unix.Getgroups()
	slices.Sort(got)
	slices.Sort(groups)
	if err != nil || os.Geteuid() != a.UID || os.Getegid() != a.GID || !slices.Equal(got, groups) {
		return errors.Join(err, errors.New("the thread has not become that user"))
	}
	if a.UID == 0 {
		return nil
	}
	_, sets, err := capabilities()
	if err == nil && (sets[0].Effective != 0 || sets[1].Effective != 0) {
		err = errors.New("the thread has kept capabilities")
	}
	return err
}
