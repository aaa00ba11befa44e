package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/imdsfs/imdsfs/source/problem"
	"golang.org/x/sys/unix"
)

// asAccount calls f with the rights of an account, and none of ours: f runs on a thread of its own, and must do what it
// does there. The kernel lets nobody look into a process one of whose threads has changed its user.
func asAccount(a *account, f func() error) error {
	if !isRoot() && os.Geteuid() != a.uid {
		return problem.Failed("run it as root: sudo imdsfs check --user "+a.name+" FILE", fmt.Errorf("--user %s: only root and that user can tell what the user may read", a.name))
	}
	if !isRoot() {
		return f()
	}
	return onThread(func() error {
		if err := becomeAccount(a); err != nil {
			return fmt.Errorf("--user %s: %w", a.name, err)
		}
		return f()
	})
}

// becomeAccount changes the user, the groups and, unless it is root's account, the capabilities of this thread alone.
// The functions of the standard library would change those of all threads.
func becomeAccount(a *account) error {
	groups := []int{}
	for _, g := range supplementary(a.name) {
		groups = append(groups, int(g))
	}
	if err := unix.Setgroups(groups); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(a.gid), uintptr(a.gid), uintptr(a.gid)); errno != 0 {
		return fmt.Errorf("setresgid: %w", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(a.uid), uintptr(a.uid), uintptr(a.uid)); errno != 0 {
		return fmt.Errorf("setresuid: %w", errno)
	}
	// Some architectures have a second call of that name, for numbers of 16 bits.
	got, err := unix.Getgroups()
	slices.Sort(got)
	slices.Sort(groups)
	if err != nil || os.Geteuid() != a.uid || os.Getegid() != a.gid || !slices.Equal(got, groups) {
		return errors.Join(err, errors.New("the thread has not become that user"))
	}
	if a.uid == 0 {
		return nil
	}
	_, sets, err := threadCapabilities()
	if err == nil && (sets[0].Effective != 0 || sets[1].Effective != 0) {
		err = errors.New("the thread has kept capabilities")
	}
	return err
}
