// Package fs is the FUSE door: it shows the tree as files.
//
//	door, err := fs.Mount(fs.Config{Dir: "/run/metadata", RuntimeDir: "/run/imdsfs"}, snapshot)
//	store.Attach(door)   // which calls door.Publish(next) from now on
//	…
//	err = door.Unmount() // within 2 s, whoever uses the files
//
// The mount shows [build.Snapshot.Root]: a directory for each EC2 version beside latest.
//
// # The way of a value
//
//	Door.Publish ──▶ publisher (publish.go): one goroutine, the newest snapshot counts
//	                  │ 1. recorder (record.go) has the Keeper hold the new tree
//	                  │ 2. rawFS.serve (fs.go) swaps the tree: requests see the new value
//	                  │ 3. changes.go: which names of which directories stand for something else
//	                  ▼
//	                 invalidator (invalidate.go) ──▶ notifier (notifier.go) ──▶ child process (notifychild.go)
//	                                                                                 │ write(2)
//	                                                                                 ▼
//	reader ──▶ kernel: drops the entry, asks again ──▶ server (server.go) ──▶ lookup.go, read.go, … ──▶ reader
//
// There is a file for each kind of request: lookup.go, forget.go, getattr.go, open.go, read.go, readdir.go, statfs.go,
// readonly.go (refused) and unsupported.go (what the kernel does without).
//
// # Rules
//
//   - An inode never changes. The node id of a file is a keyed hash of path, owner, group, mode and content (nodeid.go), so
//     another value is another inode under the same name, as after rename(2). An open descriptor keeps what it opened, and
//     no read is ever torn. The inode number, which programs see, is made from the node id (number.go).
//   - So the kernel may cache everything for ever, and OPEN, OPENDIR and FLUSH are answered "not implemented" once: a hot
//     cat, ls or stat costs no request. The kernel alone decides who may read, by owner, group and mode
//     (default_permissions).
//   - When [Door.Publish] returns, no process can open the old value: the tree is swapped first, and then the kernel drops
//     every name that stands for something else.
//   - Recorded before the kernel is told. With a [Keeper], everything that a successor needs is kept before the kernel can
//     learn of it: the device, the kernel's first request, and the trees that it may have cached (record.go).
//   - Notifications are sent from a child process. The kernel takes the directory's lock for each, and whoever waits for it
//     cannot be killed: that must never be the daemon (notifier.go).
//   - A handler looks things up in memory. It waits for nobody and sends no notification, since the kernel holds the
//     directory's lock meanwhile.
//
// The package builds on go-fuse's wire level: only that can do without OPENDIR, choose node ids and resume a live
// connection.
//
// # The life of a mount
//
// [Mount] takes one of three ways: fresh.go mounts as root, unprivileged.go for an ordinary user, and inherited.go goes on
// with the mount of a predecessor. door.go is what follows. [Door.Unmount] ends the mount; [Door.HandOver] leaves it to a
// successor (handover.go), and a daemon that is killed leaves it too, if it has a Keeper. [Inherit] makes a [Predecessor] of
// what was kept.
//
// Package mountpoint knows the path, the claim on it, the list of mounts and the device. A program that mounts calls
// [ChildMain] first thing in its main.
//
// # What readers may notice
//
// OPEN is left out, so O_DIRECT is neither seen nor refused. Each such read is a request, and gets the bytes that the
// descriptor has opened, at any offset and size.
//
// Directories change in place. For the moment in which the kernel takes in the new attributes of one, on behalf of the
// first process that asks after a publish, a stat by another process may still get the old time of change: Linux marks the
// attributes valid just before it stores them.
//
// A process that hangs in the middle of a listing, on purpose or not, keeps the kernel's lock on that directory, as on any
// file system. Changes there wait for it, and so does every process that wants a name there that the kernel does not have.
// Everything else goes on (invalidate.go).
package fs

import (
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
	"github.com/imdsfs/imdsfs/source/tree"
)

var _ fuse.RawFileSystem = (*rawFS)(nil)

// stale answers for a node id that we never handed out.
const stale = fuse.Status(syscall.ESTALE)

// rawFS answers the kernel.
type rawFS struct {
	fuse.RawFileSystem // ENOSYS to what is not here: the kernel then does without

	key     key
	clock   clock.Clock
	table   *table
	current atomic.Pointer[servedTree]
	// numbers is the publisher's.
	numbers *allocator
	// dirShift is added to the mtimes of directories, so that the kernel drops listings that it has cached (successor.go).
	dirShift time.Duration
	served   [opCount]atomic.Uint64
	// stopping has the kernel cache nothing of what it still asks.
	stopping atomic.Bool
	// Set by negotiate: the kernel does without OPEN and OPENDIR.
	noOpen, noOpenDir bool
}

// A servedTree is the snapshot that is served.
type servedTree struct {
	snapshot   *build.Snapshot
	generation uint64 // counts the trees of a mount
	numbering
}

func newRawFS(k key, now clock.Clock, s *build.Snapshot) *rawFS {
	f := &rawFS{RawFileSystem: fuse.NewDefaultRawFileSystem(), key: k, clock: now, table: newTable()}
	f.serve(f.prepare(s, build.Change{}))
	return f
}

// serve serves t from now on. Only the publisher calls it, and notifies the kernel afterwards.
func (f *rawFS) serve(t *servedTree) { f.current.Store(t) }

// directory resolves a node that must be a directory. It loads the tree last: a request that still sees the old tree has
// entered the table before the swap, so the publisher finds it there.
func (f *rawFS) directory(id uint64) (path string, dir tree.View, t *servedTree, status fuse.Status) {
	path, _, isDir, ok := f.table.place(id)
	if !ok {
		return "", tree.View{}, nil, stale
	}
	if !isDir {
		return "", tree.View{}, nil, fuse.ENOTDIR
	}
	t = f.current.Load()
	dir, ok = t.snapshot.Find(path)
	if !ok || !dir.IsDir() {
		return "", tree.View{}, nil, fuse.ENOENT
	}
	return path, dir, t, fuse.OK
}

// negotiate settles, before any other request, what the kernel can do without.
func (f *rawFS) negotiate(in *fuse.InitIn) {
	f.noOpen = in.Flags64()&fuse.CAP_NO_OPEN_SUPPORT != 0
	f.noOpenDir = in.Flags64()&fuse.CAP_NO_OPENDIR_SUPPORT != 0
}

// String implements [fuse.RawFileSystem].
func (f *rawFS) String() string { return "imdsfs" }

func join(dir, name string) string {
	if dir == "/" {
		return dir + name
	}
	return dir + "/" + name
}

func parent(path string) string {
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		return path[:i]
	}
	return "/"
}
