package fs

import (
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/imdsfs/imdsfs/source/tree"
)

const (
	// forever is how long the kernel caches entries and attributes: until it is notified.
	forever = 100_000 * time.Hour
	// credentialValidity bounds how long credentials stay readable by name when the daemon is killed: everything that the
	// kernel has cached outlives it.
	credentialValidity = 10 * time.Minute
	nameMax            = 255 // bytes; the tree's check refuses longer names
)

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
		// Node id 0 is "no such file", which the kernel caches.
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

// found fills in the answer for a node and counts the kernel's lookup of it.
func (f *rawFS) found(id, number uint64, path string, v tree.View, out *fuse.EntryOut) {
	f.table.enter(id, path, v, v.IsDir())
	valid := f.validity(path, v)
	out.NodeId = id
	out.SetEntryTimeout(valid)
	out.SetAttrTimeout(valid)
	f.fillAttr(&out.Attr, number, v)
}

// validity is how long the kernel may cache what it was told of a node.
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
