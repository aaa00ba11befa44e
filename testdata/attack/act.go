package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// act does what an attacker cannot do in a shell, in a process of his own. It returns 0 if he succeeds, and prints what he
// got.
func act(args []string) int {
	if len(args) == 0 {
		return 2
	}
	f, ok := acts[args[0]]
	if !ok {
		fmt.Fprintf(os.Stderr, "there is no act %s\n", args[0])
		return 0 // which fails the attack
	}
	if err := f(args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

var acts = map[string]func(args []string) error{
	"map":      func(args []string) error { return mapFile(args[0], unix.PROT_READ) },
	"mapwrite": func(args []string) error { return mapFile(args[0], unix.PROT_READ|unix.PROT_WRITE) },
	"setxattr": func(args []string) error { return unix.Setxattr(args[0], "user.x", []byte("x"), 0) },
	"getxattr": func(args []string) error {
		value := make([]byte, 4096)
		n, err := unix.Getxattr(args[0], "user.x", value)
		os.Stdout.Write(value[:max(n, 0)])
		return err
	},
	"handle":   openRootByHandle,
	"ptrace":   func(args []string) error { return unix.PtraceAttach(number(args[0])) },
	"vmread":   readMemory,
	"exchange": exchangeForEver,
	"pidfd":    stealDescriptor,
	"measure":  measure,
	"openmany": openMany,
}

func number(text string) int {
	n, _ := strconv.Atoi(text)
	return n
}

func mapFile(path string, prot int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, 4096, prot, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	if prot&unix.PROT_WRITE != 0 {
		data[0] = 'x'
	}
	os.Stdout.Write(data[:100])
	return nil
}

// openRootByHandle opens node 1, the root of every FUSE file system, from a directory in it, and reads a file below.
func openRootByHandle(args []string) error {
	dir, err := os.Open(args[0])
	if err != nil {
		return err
	}
	const fileIDFuse = 0x81 // FILEID_INO64_GEN: node id (high, low), generation
	id := make([]byte, 12)
	binary.NativeEndian.PutUint32(id[4:], 1)
	fd, err := unix.OpenByHandleAt(int(dir.Fd()), unix.NewFileHandle(fileIDFuse, id), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	file, err := unix.Openat(fd, args[1], unix.O_RDONLY, 0)
	if err != nil {
		fmt.Println("the root of the mount is open, but:", err)
		return nil
	}
	text := make([]byte, 4096)
	n, err := unix.Read(file, text)
	os.Stdout.Write(text[:max(n, 0)])
	return err
}

// readMemory reads some memory of another process.
func readMemory(args []string) error {
	pid := number(args[0])
	local := make([]byte, 16)
	iov := []unix.Iovec{{Base: &local[0]}}
	iov[0].SetLen(len(local))
	_, err := unix.ProcessVMReadv(pid, iov, []unix.RemoteIovec{{Base: 0x400000, Len: len(local)}}, 0)
	return err
}

// stealDescriptor takes a copy of a descriptor of another process.
func stealDescriptor(args []string) error {
	pid, err := unix.PidfdOpen(number(args[0]), 0)
	if err != nil {
		return err
	}
	_, err = unix.PidfdGetfd(pid, number(args[1]), 0)
	return err
}

const measured = "\nmeasured: "

// measure runs a command for at most half a minute and prints its exit code (-1 if it was killed), its processor time and
// its memory in KiB. It runs in a process of its own, because the kernel counts a parent's memory as its child's.
func measure(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		return err
	}
	state := cmd.ProcessState
	usage, ok := state.SysUsage().(*syscall.Rusage)
	if !ok {
		return errors.New("no figures")
	}
	fmt.Printf("%s%d %d %d\n", measured, state.ExitCode(), state.UserTime()+state.SystemTime(), usage.Maxrss)
	return nil
}

// openMany holds 1,000 open files and mappings until its standard input ends.
func openMany(args []string) error {
	for range 1000 {
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		data, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil || data[0] != 'i' {
			return fmt.Errorf("map: %w", err)
		}
	}
	fmt.Println("held")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// exchangeForEver swaps two names again and again, for that many milliseconds.
func exchangeForEver(args []string) error {
	for end := time.Now().Add(time.Duration(number(args[2])) * time.Millisecond); time.Now().Before(end); {
		if err := unix.Renameat2(unix.AT_FDCWD, args[0], unix.AT_FDCWD, args[1], unix.RENAME_EXCHANGE); err != nil && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return nil
}
