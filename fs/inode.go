package fs

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imdsfs/imdsfs/source"
)

// A key makes node ids and directory cookies: pure functions of what they name, so that they stay
// over a restart, and keyed, so that an inode number tells nothing about a secret's content.
type key [32]byte

// loadKey reads the key from the run-time directory and makes it when there is none. Daemons that
// start at once agree on one key.
func loadKey(runtimeDir string) (k key, err error) {
	path := filepath.Join(runtimeDir, "inode.key")
	for range 2 {
		text, err := os.ReadFile(path)
		switch {
		case err == nil && len(text) == len(k):
			return key(text), nil
		case err == nil:
			return k, fmt.Errorf("%s holds %d bytes instead of %d: remove it, a new one is made", path, len(text), len(k))
		case !errors.Is(err, fs.ErrNotExist):
			return k, err
		}
		if err := makeKey(path); err != nil {
			return k, fmt.Errorf("make inode key: %w", err)
		}
	}
	return k, fmt.Errorf("%s vanishes again and again: another program removes it", path)
}

// makeKey puts a new key at path unless there is one by now. It appears as a whole or not at all.
func makeKey(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".inode.key-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var k key
	if _, err := rand.Read(k[:]); err != nil {
		return err
	}
	if _, err := f.Write(k[:]); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// sum is 64 bits of SHA-256 behind the key; what is cut off makes it as good as an HMAC. Two nodes with
// one id would need about 2^32 nodes, and nobody without the key can look for them.
func (k *key) sum(domain byte, fixed []byte, name string) uint64 {
	text := make([]byte, 0, 256)
	text = append(text, k[:]...)
	text = append(text, domain)
	text = append(text, fixed...)
	text = append(text, name...)
	digest := sha256.Sum256(text)
	return binary.BigEndian.Uint64(digest[:])
}

// node is the node id, which is also the inode number, of what stands at the absolute path. That of
// a file is another one when its bytes, owner, group or mode are others: an inode never changes.
func (k *key) node(path string, v source.View) uint64 {
	if v.IsDir() {
		return k.dir(path)
	}
	at, digest := v.Attr(), v.Digest()
	fixed := make([]byte, 0, 12+len(digest))
	fixed = binary.BigEndian.AppendUint32(fixed, at.UID)
	fixed = binary.BigEndian.AppendUint32(fixed, at.GID)
	fixed = binary.BigEndian.AppendUint32(fixed, at.Mode)
	fixed = append(fixed, digest[:]...)
	return usable(k.sum('f', fixed, path))
}

func (k *key) dir(path string) uint64 {
	if path == "/" {
		return fuse.FUSE_ROOT_ID
	}
	return usable(k.sum('d', nil, path))
}

// usable steps around the ids with a meaning: 0 is "no such file", 1 the root, and all ones
// go-fuse's own hidden file.
func usable(id uint64) uint64 {
	switch id {
	case 0, fuse.FUSE_ROOT_ID, ^uint64(0):
		return 2
	}
	return id
}

// An inode is a node that the kernel knows.
type inode struct {
	path    string      // absolute
	dir     bool        // a directory is looked up by its path each time
	view    source.View // of a file: what open descriptors read until the kernel forgets the inode
	lookups uint64      // how many the kernel will FORGET
	listing *listing    // of a directory: the last one made
}

// A table holds the inodes that the kernel knows, and nothing else: it costs what the kernel caches,
// not what the tree holds. Its mutex is held for map operations only, never over a notify.
type table struct {
	mu    sync.Mutex
	nodes map[uint64]*inode
	dirs  map[string]uint64 // path → node id of the directories
	peak  int               // most inodes since the maps were made
}

func newTable() *table {
	t := &table{nodes: map[uint64]*inode{}, dirs: map[string]uint64{}}
	t.enter(fuse.FUSE_ROOT_ID, "/", source.View{}, true)
	return t
}

// enter counts one lookup of a node by the kernel.
func (t *table) enter(id uint64, path string, v source.View, dir bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	if n == nil {
		n = &inode{path: path, dir: dir}
		t.nodes[id] = n
		if dir {
			t.dirs[path] = id
		}
		t.peak = max(t.peak, len(t.nodes))
	}
	n.lookups++
	if !dir {
		n.view = v // the same bytes; another mtime if the value was changed and changed back
	}
}

// forget takes n lookups back. Counts that do not add up are harmless: a successor of another daemon
// gets FORGETs for what it never handed out.
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
	delete(t.nodes, id)
	if node.dir {
		delete(t.dirs, node.path)
	}
	t.shrink()
}

// shrink makes new maps when most is gone, because Go's maps keep their largest size.
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
func (t *table) place(id uint64) (path string, v source.View, dir, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	if n == nil {
		return "", source.View{}, false, false
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
