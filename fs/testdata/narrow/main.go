// Command narrow shows what a 32-bit program sees of files and directories: build it with GOARCH=386. For each path, a line
// of standard input, it prints lines of a path, the call and a number:
//
//   - stat, fstat and getdents are those of programs that were not built for large files: numbers and offsets
//     have 32 bits there, and a longer one is EOVERFLOW.
//   - d_off is a position of a listing as getdents64 tells it. readdir and telldir of such programs need it in 31 bits.
//   - fstatat64 and getdents64 are what programs for large files use, the Go library among them.
//
// The exit code is 1 if a call fails. It does without package os, to be built quickly.
package main

import (
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// linux/arch/x86/entry/syscalls/syscall_32.tbl
const (
	sysStat       = 106
	sysFstat      = 108
	sysGetdents   = 141
	sysGetdents64 = 220
)

func main() {
	var in [1 << 16]byte
	size := 0
	for {
		n, err := syscall.Read(0, in[size:])
		check("standard input", "read", err)
		if n == 0 {
			break
		}
		size += n
	}
	for path := range strings.Lines(string(in[:size])) {
		look(strings.TrimSuffix(path, "\n"))
	}
}

func look(path string) {
	var narrow [64]byte // struct stat of i386: st_ino is the second word
	name, err := syscall.BytePtrFromString(path)
	check(path, "stat", err)
	_, _, errno := syscall.Syscall(sysStat, uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&narrow)), 0)
	failed(path, "stat", errno)
	show(path, "stat", word(narrow[4:]))
	fd, err := syscall.Open(path, syscall.O_RDONLY, 0)
	check(path, "open", err)
	defer syscall.Close(fd)
	narrow = [64]byte{}
	_, _, errno = syscall.Syscall(sysFstat, uintptr(fd), uintptr(unsafe.Pointer(&narrow)), 0)
	failed(path, "fstat", errno)
	show(path, "fstat", word(narrow[4:]))
	var wide syscall.Stat_t
	check(path, "fstatat64", syscall.Stat(path, &wide))
	show(path, "fstatat64", wide.Ino)
	if wide.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		list(path, "getdents", sysGetdents, fd)
		_, err = syscall.Seek(fd, 0, 0)
		check(path, "seek", err)
		list(path, "getdents64", sysGetdents64, fd)
	}
}

// list shows the entries of a directory but "..", which above a mount is another file system's.
func list(path, call string, trap uintptr, fd int) {
	var buf [4096]byte
	for {
		n, _, errno := syscall.Syscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&buf)), uintptr(len(buf)))
		failed(path, call, errno)
		if n == 0 {
			return
		}
		for rest := buf[:n]; len(rest) > 0; {
			var ino, off uint64
			var size int
			var text []byte
			if trap == sysGetdents {
				ino, off = word(rest), word(rest[4:])
				size = int(rest[8]) | int(rest[9])<<8
				text = rest[10:size]
			} else {
				ino, off = word(rest)|word(rest[4:])<<32, word(rest[8:])|word(rest[12:])<<32
				size = int(rest[16]) | int(rest[17])<<8
				text = rest[19:size]
			}
			rest = rest[size:]
			name, _, _ := strings.Cut(string(text), "\x00")
			if name == ".." {
				continue
			}
			show(join(path, name), call, ino)
			if trap == sysGetdents64 {
				show(join(path, name), "d_off", off)
			}
		}
	}
}

// word is 32 bits of a little-endian machine.
func word(b []byte) uint64 {
	return uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24
}

func join(dir, name string) string {
	if name == "." {
		return dir
	}
	return dir + "/" + name
}

func failed(path, call string, errno syscall.Errno) {
	if errno != 0 {
		check(path, call, errno)
	}
}

func check(path, call string, err error) {
	if err != nil {
		syscall.Write(2, []byte(call+" "+path+": "+err.Error()+"\n"))
		syscall.Exit(1)
	}
}

func show(path, call string, n uint64) {
	syscall.Write(1, []byte(path+" "+call+" "+strconv.FormatUint(n, 10)+"\n"))
}
