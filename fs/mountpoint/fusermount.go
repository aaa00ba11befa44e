package mountpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const fusermountLimit = 10 * time.Second // fusermount3 -u

// AttachUnprivileged mounts through the setuid program fusermount3, for an ordinary user. That user alone can read the
// mount.
func (p *Point) AttachUnprivileged() (*os.File, error) {
	device, err := fusermount(p.dir)
	if err != nil {
		return nil, refusal(p.dir, ErrPermission, strings.TrimSpace(err.Error()), "run as root, or install fuse3 and see to it that you may open /dev/fuse")
	}
	return device, nil
}

// fusermount has fusermount3 mount, which passes the device on a socket (libfuse 3: _FUSE_COMMFD names it).
func fusermount(dir string) (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	defer unix.Close(pair[0])
	childEnd := os.NewFile(uintptr(pair[1]), "fusermount3")
	defer childEnd.Close()
	options := fmt.Sprintf("ro,nosuid,nodev,noexec,default_permissions,max_read=%d,fsname=%s,subtype=%s", MaxRead, Subtype, Subtype)
	cmd := exec.Command("fusermount3", "-o", options, "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{childEnd}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("fusermount3: %w: %s", err, bytes.TrimSpace(out))
	}
	childEnd.Close()
	fd, err := receive(pair[0])
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fusermount3: %w", err), fusermountDetach(dir))
	}
	return deviceFile(fd)
}

func fusermountDetach(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), fusermountLimit)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "fusermount3", "-u", "-z", "--", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("fusermount3 -u: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// receive takes one descriptor from a socket.
func receive(socket int) (fd int, err error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, errors.New("no descriptor came")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.New("no descriptor came")
	}
	return fds[0], nil
}
