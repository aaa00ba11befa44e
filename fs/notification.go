package fs

import (
	"encoding/binary"
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Codes of notifications, linux/fuse.h.
const (
	notifyInode  = 2
	notifyEntry  = 3
	notifyResend = 7
)

// A notification has the kernel drop one thing that it has cached: the entry of a name in a directory or, without a name,
// the attributes of a node.
type notification struct {
	node uint64
	name string
}

// A kernel takes notifications. The tests have one that writes them down.
type kernel interface {
	// notify begins to send batches of notifications, and returns. Each batch concerns one directory, whose lock a process
	// may hold: while one batch waits for it, the others go on. done is called for each batch by its number when it was
	// sent, from any goroutine, with the kernel's answer to each notification: OK, ENOENT if it had nothing cached, or why
	// it does not listen.
	notify(batches [][]notification, done func(batch int, answers []fuse.Status))
}

// encode appends the notification as the kernel reads it. Of a node only the attributes are dropped (offset -1): dropping
// the pages of a half-read directory would keep the kernel from ever caching it again.
func (n notification) encode(to []byte) []byte {
	if n.name == "" {
		to = appendNotifyHeader(to, outHeaderSize+24, notifyInode)
		to = binary.NativeEndian.AppendUint64(to, n.node)
		to = binary.NativeEndian.AppendUint64(to, ^uint64(0)) // offset
		return binary.NativeEndian.AppendUint64(to, 0)        // length
	}
	to = appendNotifyHeader(to, outHeaderSize+16+len(n.name)+1, notifyEntry)
	to = binary.NativeEndian.AppendUint64(to, n.node)
	to = binary.NativeEndian.AppendUint32(to, uint32(len(n.name)))
	to = binary.NativeEndian.AppendUint32(to, 0) // flags
	to = append(to, n.name...)
	return append(to, 0)
}

func appendNotifyHeader(to []byte, size, code int) []byte {
	to = binary.NativeEndian.AppendUint32(to, uint32(size))
	to = binary.NativeEndian.AppendUint32(to, uint32(code))
	return binary.NativeEndian.AppendUint64(to, 0)
}

// writeNotifications sends an encoded batch, one notification after the other.
func writeNotifications(device int, batch []byte) []fuse.Status {
	var answers []fuse.Status
	for len(batch) >= outHeaderSize {
		size := int(binary.NativeEndian.Uint32(batch))
		if size < outHeaderSize || size > len(batch) {
			break
		}
		_, err := unix.Write(device, batch[:size])
		for err == unix.EINTR {
			_, err = unix.Write(device, batch[:size])
		}
		status := fuse.OK
		if errno := unix.Errno(0); errors.As(err, &errno) {
			status = fuse.Status(errno)
		}
		answers = append(answers, status)
		batch = batch[size:]
	}
	return answers
}
