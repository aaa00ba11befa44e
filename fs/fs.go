// Package fs is the FUSE door: it shows the tree as files.
//
//	door, err := fs.Mount(fs.Config{Dir: "/run/metadata", RuntimeDir: "/run/imdsfs"}, snapshot)
//	store.Attach(door)   // which calls door.Publish(next) from now on
//	…
//	err = door.Unmount() // within 2 s, whoever uses the files
//
// The mount shows [build.Snapshot.Root]: a directory for each EC2 version beside latest.
//
// It is built on go-fuse's wire level, because only that can do without OPENDIR, choose node ids and
// later resume a live connection. Four ideas carry it:
//
//   - The inode of a file never changes. Its node id is a keyed hash of path, owner, group, mode and
//     content (inode.go), so another value is another inode under the same name, as after rename(2):
//     an open descriptor keeps what it opened, and no read is ever torn. The inode number, which
//     programs see, is made from it (number.go).
//   - So the kernel may keep everything for ever, and OPEN, OPENDIR and FLUSH are answered "not
//     implemented" once: a hot cat, ls or stat costs no request. Nobody asks us who may read; the
//     kernel decides by owner, group and mode (default_permissions).
//   - Publishing (publish.go) swaps the tree and then tells the kernel each name that stands for
//     something else now. When [Door.Publish] returns, no process can open the old value.
//   - A handler is a look-up in memory. It waits for nobody, and never notifies: the kernel holds the
//     directory's lock meanwhile.
//
// What follows for whoever reads: because OPEN is left out, O_DIRECT is neither seen nor refused; each
// such read is a request and gets the bytes that the descriptor has opened, at any offset and size.
// Directories do change in place, so for the moment in which the kernel takes in the new attributes of
// one, on behalf of the first who asks after a publish, a stat by somebody else may still get the old
// time of change: Linux marks them valid just before it stores them.
//
// A process that hangs in the middle of a listing, on purpose or not, keeps the kernel's lock on that
// directory, as on any file system. What changes there waits for it, and so does who wants a name
// there that the kernel does not have; everything else goes on (teller.go). Whoever waits for the lock
// cannot be killed, so that is a child process (messenger.go) and never the daemon.
//
// A mount can outlive its daemon. With a [Keeper], everything that a successor has to know is kept before the
// kernel learns of it (record.go): the device, the kernel's first request, and the trees that it may
// believe in. [Inherit] makes a [Predecessor] of that, with which Mount goes on: it knows all nodes that
// were handed out, has the kernel send again what was not answered, and tells it what is different
// (inherit.go). [Door.HandOver] is the orderly way to end for a successor.
//
// Mounting and its refusals are in mount.go, device.go and point.go; probe.go has a child process walk to the mount
// point. What was done there is noted in a claim (claim.go), so that whoever comes after a crash undoes that and nothing
// else. Root does the same for a daemon of another user, whom it does not trust (helper.go). A program that mounts calls
// [ChildMain] first thing in its main.
package fs

import (
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
)

var _ fuse.RawFileSystem = (*rawFS)(nil)

const (
	// forever is how long the kernel keeps entries and attributes: until it is told otherwise.
	forever = 100_000 * time.Hour
	// credentialValidity bounds how long credentials stay readable by name when the daemon is
	// killed: everything that the kernel keeps outlives it.
	credentialValidity = 10 * time.Minute

	// stale answers for a node id that we never handed out.
	stale = fuse.Status(syscall.ESTALE)
)

// rawFS answers the kernel. Operations that would change anything are in readonly.go.
type rawFS struct {
	fuse.RawFileSystem // ENOSYS to what is not here: the kernel then does without

	key     key
	clock   clock.Clock
	table   *table
	current atomic.Pointer[tree]
	// allotment is the publisher's.
	allotment *allotment
	// dirShift is added to the mtimes of directories, so that the kernel drops a listing that it keeps (inherit.go).
	dirShift time.Duration
	served   [opCount]atomic.Uint64
	// stopping makes the kernel keep nothing of what it still asks.
	stopping atomic.Bool
	// Set by negotiate: the kernel does without OPEN and OPENDIR.
	noOpen, noOpenDir bool
}

// A tree is the snapshot that is served.
type tree struct {
	snapshot   *build.Snapshot
	generation uint64 // counts the trees of a mount
	numbering
}

func newRawFS(k key, clock clock.Clock, s *build.Snapshot) *rawFS {
	f := &rawFS{RawFileSystem: fuse.NewDefaultRawFileSystem(), key: k, clock: clock, table: newTable()}
	f.serve(f.prepare(s, build.Change{}))
	return f
}

// serve serves t from now on. Only the publisher calls it, and tells the kernel afterwards.
func (f *rawFS) serve(t *tree) { f.current.Store(t) }

// directory resolves a node that must be a directory. The tree is loaded last: whoever still sees
// the old one entered the table before the swap, so the publisher finds him there.
func (f *rawFS) directory(id uint64) (path string, dir tree.View, t *tree, status fuse.Status) {
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

// found fills in the answer for a node and counts the kernel's lookup of it.
func (f *rawFS) found(id, number uint64, path string, v tree.View, out *fuse.EntryOut) {
	f.table.enter(id, path, v, v.IsDir())
	valid := f.validity(path, v)
	out.NodeId = id
	out.SetEntryTimeout(valid)
	out.SetAttrTimeout(valid)
	f.fillAttr(&out.Attr, number, v)
}

// validity is how long the kernel may keep what it was told of a node.
func (f *rawFS) validity(path string, v tree.View) time.Duration {
	switch {
	case f.stopping.Load():
		return 0
	case !isCredential(path, v):
		return forever
	case v.Expires().IsZero():
		return credentialValidity
	}
	return max(0, min(credentialValidity, v.Expires().Sub(f.clock.Now())))
}

func isCredential(path string, v tree.View) bool {
	return v.Secret() && (!v.Expires().IsZero() ||
		strings.Contains(path, "/iam/security-credentials") || strings.Contains(path, "/identity-credentials/"))
}

// Lookup implements [fuse.RawFileSystem].
func (f *rawFS) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	f.count(opLookup)
	if len(name) > nameMax {
		return fuse.Status(syscall.ENAMETOOLONG)
	}
	path, dir, t, status := f.directory(header.NodeId)
	if !status.Ok() {
		return status
	}
	child, ok := dir.Child(name)
	if !ok {
		// Node id 0 is "no such file", to be remembered.
		if !f.stopping.Load() {
			out.SetEntryTimeout(forever)
		}
		return fuse.OK
	}
	path = join(path, name)
	id := f.key.node(path, child)
	f.found(id, f.number(&t.numbering, id, path, child), path, child, out)
	return fuse.OK
}

// Forget implements [fuse.RawFileSystem].
func (f *rawFS) Forget(id, n uint64) {
	f.count(opForget)
	f.table.forget(id, n)
}

// GetAttr implements [fuse.RawFileSystem].
func (f *rawFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.count(opGetAttr)
	path, v, dir, ok := f.table.place(in.NodeId)
	if !ok {
		return stale
	}
	t := f.current.Load()
	if dir {
		var status fuse.Status
		if _, v, t, status = f.directory(in.NodeId); !status.Ok() {
			return status
		}
	}
	out.SetTimeout(f.validity(path, v))
	f.fillAttr(&out.Attr, f.number(&t.numbering, in.NodeId, path, v), v)
	return fuse.OK
}

// Open implements [fuse.RawFileSystem].
func (f *rawFS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	f.count(opOpen)
	switch {
	case in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY:
		return fuse.EROFS
	case f.noOpen:
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// OpenDir implements [fuse.RawFileSystem].
func (f *rawFS) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	f.count(opOpenDir)
	if f.noOpenDir {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	return fuse.OK
}

// Read implements [fuse.RawFileSystem].
func (f *rawFS) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	f.count(opRead)
	_, v, dir, ok := f.table.place(in.NodeId)
	switch {
	case !ok:
		return nil, stale
	case dir:
		return nil, fuse.EISDIR
	}
	content := v.Bytes()
	from := min(in.Offset, uint64(len(content)))
	to := min(from+uint64(in.Size), uint64(len(content)))
	return fuse.ReadResultData(content[from:to]), fuse.OK
}

// Flush implements [fuse.RawFileSystem].
func (f *rawFS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status {
	f.count(opFlush)
	return fuse.ENOSYS
}

// Access implements [fuse.RawFileSystem].
func (f *rawFS) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status {
	f.count(opAccess)
	return fuse.ENOSYS
}

// StatFs implements [fuse.RawFileSystem]. As proc and sysfs have it, there are no blocks and no files: a mount with
// nothing free looks like a full disk to a monitor, and a container that has a sub-directory bound is told nothing of
// the rest.
func (f *rawFS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	f.count(opStatFs)
	out.Bsize, out.Frsize, out.NameLen = blockSize, blockSize, nameMax
	return fuse.OK
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
