package fs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/imdsfs/imdsfs/source/tree"
)

// An inode is a node that the kernel knows.
type inode struct {
	path    string    // absolute
	dir     bool      // a directory is looked up by its path each time
	view    tree.View // of a file: what open descriptors read until the kernel forgets the inode
	lookups uint64    // how many of ours the kernel will FORGET
	listing *listing  // of a directory: the last one made
}

// A table holds the inodes that the kernel knows, and nothing else: it costs what the kernel caches, not what the tree
// holds. Its mutex is held for map operations only, never over a notification.
type table struct {
	mu    sync.Mutex
	nodes map[uint64]*inode
	dirs  map[string]uint64 // path → node id of the directories
	peak  int               // most inodes since the maps were made
	// doubtful are inherited inodes that the kernel may have forgotten by now.
	doubtful map[uint64]bool
	// inherited are the node ids that a predecessor may have handed out as well, nobody knows how often. A FORGET of those
	// may come at any time, also after the kernel has said that it does not know the inode, and must not count against
	// what was handed out in between. Such an inode goes only when the kernel does not know it.
	inherited map[uint64]bool
}

func newTable() *table {
	t := &table{nodes: map[uint64]*inode{}, dirs: map[string]uint64{}, doubtful: map[uint64]bool{}, inherited: map[uint64]bool{}}
	t.enter(fuse.FUSE_ROOT_ID, "/", tree.View{}, true)
	return t
}

// enter counts one lookup of a node by the kernel.
func (t *table) enter(id uint64, path string, v tree.View, dir bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.make(id, path, dir)
	n.lookups++
	if !dir {
		n.view = v // the same bytes; another mtime if the value was changed and changed back
	}
}

func (t *table) make(id uint64, path string, dir bool) *inode {
	n := t.nodes[id]
	if n == nil {
		n = &inode{path: path, dir: dir}
		t.nodes[id] = n
		if dir {
			t.dirs[path] = id
		}
		t.peak = max(t.peak, len(t.nodes))
	}
	return n
}

// inherit enters a node that a predecessor may have handed out.
func (t *table) inherit(id uint64, path string, v tree.View, dir bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inherited[id], t.doubtful[id] = true, true
	n := t.make(id, path, dir)
	if !dir {
		n.view = v
	}
}

// inDoubt returns the inodes that the kernel has to be asked about, by the path of their directory, and clears the list.
func (t *table) inDoubt() map[string][]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.doubtful) == 0 {
		return nil
	}
	byDir := map[string][]uint64{}
	for id := range t.doubtful {
		if n := t.nodes[id]; n != nil && t.inherited[id] {
			dir := parent(n.path)
			byDir[dir] = append(byDir[dir], id)
		}
	}
	clear(t.doubtful)
	return byDir
}

// dropIfUnknown drops an inode that the kernel did not know when it was asked. If the kernel has looked it up or forgotten it
// since then, the answer is out of date.
func (t *table) dropIfUnknown(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.nodes[id]; n != nil && n.lookups == 0 && !t.doubtful[id] {
		t.delete(id, n)
	}
}

// each yields all inodes. It holds the lock meanwhile.
func (t *table) each(yield func(id uint64, n *inode)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, n := range t.nodes {
		yield(id, n)
	}
}

// held are all inodes but the root.
func (t *table) held() (all []heldNode) {
	t.each(func(id uint64, n *inode) {
		if id != fuse.FUSE_ROOT_ID {
			all = append(all, heldNode{n.path, n.view, n.dir})
		}
	})
	return all
}

// forget takes n lookups back. Counts that do not add up are harmless: a successor gets FORGETs for what it never handed out.
func (t *table) forget(id, n uint64) {
	if id == fuse.FUSE_ROOT_ID {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	node := t.nodes[id]
	if node == nil {
		return
	}
	if n < node.lookups {
		node.lookups -= n
		return
	}
	if t.inherited[id] {
		node.lookups, t.doubtful[id] = 0, true
		return
	}
	t.delete(id, node)
}

func (t *table) delete(id uint64, n *inode) {
	delete(t.nodes, id)
	if n.dir {
		delete(t.dirs, n.path)
	}
	t.shrink()
}

// shrink makes new maps when most inodes are gone, because Go's maps keep their largest size.
func (t *table) shrink() {
	if t.peak < 4096 || len(t.nodes) > t.peak/8 {
		return
	}
	nodes, dirs := make(map[uint64]*inode, len(t.nodes)), make(map[string]uint64, len(t.dirs))
	for id, n := range t.nodes {
		nodes[id] = n
		if n.dir {
			dirs[n.path] = id
		}
	}
	t.nodes, t.dirs, t.peak = nodes, dirs, len(nodes)
}

// place is where a node is, and what an open descriptor of it reads if it is a file.
func (t *table) place(id uint64) (path string, v tree.View, dir, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	if n == nil {
		return "", tree.View{}, false, false
	}
	return n.path, n.view, n.dir, true
}

// knownDir is the node id of the directory at path if the kernel knows it.
func (t *table) knownDir(path string) (uint64, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id, ok := t.dirs[path]
	return id, ok
}

// listing is the listing last made for a directory, nil if there is none.
func (t *table) listing(id uint64) *listing {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.nodes[id]; n != nil {
		return n.listing
	}
	return nil
}

func (t *table) setListing(id uint64, l *listing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.nodes[id]; n != nil {
		n.listing = l
	}
}

func (t *table) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.nodes)
}
