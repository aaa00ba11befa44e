package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/safepath"
)

const hintForeign = "if the daemon of that user is meant, run this as that user; else name another directory with --runtime-dir"

// A runDir is the run-time directory of a daemon, whose owner has been checked.
type runDir struct {
	file  *os.File // O_PATH
	owner uint32
}

// openRunDir opens a run-time directory, or the directory of an admin socket. It must belong to root or to us, or to a user
// to whom root has given a directory that the user could not have made there: /run/imdsfs, to a daemon's user. Nobody else
// may be able to exchange its files, and no symbolic link of another user may lead to it. The error is [fs.ErrNotExist] if
// there is none.
func openRunDir(path string) (*runDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	way := &clientWay{}
	file, entry, err := safepath.Walk(path, way)
	if err != nil {
		return nil, foreign(err)
	}
	owner := entry.Stat.Uid
	switch {
	case !entry.IsDir():
		err = fmt.Errorf("%s is no directory", entry.Path)
	case safepath.WritableByOthers(&entry.Stat) && entry.Stat.Mode&unix.S_ISVTX == 0:
		err = &safepath.Error{Path: entry.Path, Reason: fmt.Sprintf("is writable by others (mode %04o)", entry.Stat.Mode&0o7777)}
	case !safepath.IsOurs(owner) && way.refusal != nil:
		err = &safepath.Error{Path: entry.Path, Reason: fmt.Sprintf("belongs to uid %d, neither to root nor to you", owner)}
	}
	if err != nil {
		return nil, errors.Join(foreign(err), file.Close())
	}
	return &runDir{file, owner}, nil
}

func foreign(err error) error {
	var refused *safepath.Error
	if errors.As(err, &refused) {
		return problem.Failed(hintForeign, err)
	}
	return err
}

// A clientWay walks the path of a run-time directory. It refuses symbolic links of other users, and notes why another user
// could exchange a part of the path.
type clientWay struct{ refusal error }

func (w *clientWay) Name(dir, entry *safepath.Entry) error {
	if entry.Stat.Mode&unix.S_IFMT == unix.S_IFLNK && !safepath.IsOurs(entry.Stat.Uid) {
		return &safepath.Error{Path: entry.Path, Reason: fmt.Sprintf("is a symbolic link of uid %d", entry.Stat.Uid)}
	}
	if w.refusal == nil {
		w.refusal = safepath.Policy{}.Name(dir, entry)
	}
	return nil
}

func (w *clientWay) Link(_, _ *safepath.Entry) error { return nil }

// open opens a regular file in the directory for reading; nil unless it belongs to root, to us or to the directory's
// owner.
func (d *runDir) open(name string) *os.File {
	fd, err := unix.Openat(int(d.file.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || !safepath.IsOurs(st.Uid) && (st.Uid != d.owner || safepath.IsUnknown(st.Uid)) {
		unix.Close(fd)
		return nil
	}
	return os.NewFile(uintptr(fd), filepath.Join(d.file.Name(), name))
}

// dialDaemon connects to an admin socket. The process at the other end must be root's or ours or, if we are root, may be
// that of the directory's owner: nobody else shall read what we ask for.
func dialDaemon(ctx context.Context, socket string) (net.Conn, error) {
	dir, err := openRunDir(filepath.Dir(socket))
	if err != nil {
		return nil, err
	}
	defer dir.file.Close()
	fd, err := unix.Openat(int(dir.file.Fd()), filepath.Base(socket), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: socket, Err: err}
	}
	held := os.NewFile(uintptr(fd), socket)
	defer held.Close()
	info, err := held.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Type() != os.ModeSocket {
		return nil, problem.Failed(hintForeign, fmt.Errorf("%s is no socket", socket))
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", safepath.ProcPath(held))
	if err != nil {
		return nil, err
	}
	if err := dir.admits(conn.(*net.UnixConn), socket); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// admits is an error unless the daemon is at the other end of the connection.
func (d *runDir) admits(conn *net.UnixConn, socket string) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) { peer, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, inner); err != nil {
		return fmt.Errorf("who answers at %s: %w", socket, err)
	}
	if peer.Uid == 0 || int(peer.Uid) == os.Geteuid() || os.Geteuid() == 0 && peer.Uid == d.owner && !safepath.IsUnknown(d.owner) {
		return nil
	}
	return problem.Failed("see who it is, and name the daemon's own with --admin or --runtime-dir; or run this as root or as the daemon's user",
		fmt.Errorf("a process of uid %d answers at %s: nothing was sent to it", peer.Uid, socket))
}

// runtimeDirs are the run-time directories in which to look for a daemon: that of the flag, else our own and that of
// the machine's service.
func runtimeDirs(flag string) []string {
	own := daemon.DefaultRuntimeDir()
	switch {
	case flag != "":
		return []string{flag}
	case own == daemon.RootRuntimeDir:
		return []string{own}
	}
	return []string{own, daemon.RootRuntimeDir}
}

// answering is the first address of the daemon with the run-time directory dir at which somebody answers; not valid if
// there is none: a daemon that was killed leaves its addresses behind. The error says why the directory is not believed.
func answering(ctx context.Context, dialer *net.Dialer, dir string) (netip.AddrPort, error) {
	addresses, err := listening(dir)
	for _, address := range addresses {
		if conn, err := dialer.DialContext(ctx, "tcp", address.String()); err == nil {
			conn.Close()
			return address, nil
		}
	}
	return netip.AddrPort{}, err
}
