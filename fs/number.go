package fs

import (
	"maps"
	"slices"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
)

// An inode number, which stat and readdir show, has 32 bits: a 32-bit program that was not built for large files gets
// EOVERFLOW for a longer one. The node id, by which the kernel talks to us, keeps its 64 bits.
//
// A number has two parts: versionBits for the version, and nodeBits for what stands there. The second part is made from the
// node id of the same place in latest, so one entry a file, and not one a file and version, says what is taken.
const (
	versionBits = 10
	nodeBits    = 32 - versionBits

	// renumberSlack is how many numbers of nodes that are gone are kept in any case.
	renumberSlack = 1024
)

// A numbering is the inode numbers of a tree. It never changes.
type numbering struct {
	bits      uint              // of the part for the node
	displaced map[uint64]uint32 // node id in latest → its part, where that is not the first choice
	versions  map[string]uint32 // name → its part
}

// choice is the first choice for an id among the numbers from 1 to 2^bits - 2. No number is 0, which hides a file
// from readdir, or all ones, an error in some programs.
func choice(id uint64, bits uint) uint32 { return 1 + uint32(id>>32)%(1<<bits-2) }

// following is the choice after n.
func following(n uint32, bits uint) uint32 { return n%(1<<bits-2) + 1 }

func (n *numbering) node(id uint64) uint32 {
	if part, ok := n.displaced[id]; ok {
		return part
	}
	return choice(id, n.bits)
}

// number is the inode number of the node id at an absolute path. Of a directory nothing but the path counts.
func (f *rawFS) number(n *numbering, id uint64, path string, v tree.View) uint64 {
	if id == fuse.FUSE_ROOT_ID {
		return id
	}
	version, rest := splitVersion(path)
	if version != tree.Latest {
		id = f.key.node(inLatest(rest), v)
	}
	return uint64(n.node(id))<<versionBits | uint64(n.versions[version])
}

// splitVersion cuts "/latest/meta-data" into "latest" and "/meta-data".
func splitVersion(path string) (version, rest string) {
	if i := strings.IndexByte(path[1:], '/'); i >= 0 {
		return path[1 : i+1], path[i+1:]
	}
	return path[1:], ""
}

func inLatest(rest string) string { return "/" + tree.Latest + rest }

// An allocator gives out numbers. A node keeps the number that it has; a new node whose first choice is taken gets the next
// free one. Numbers of nodes that are gone stay taken until they are more than those of the tree, so that a file that stays
// open or comes back has the same number.
type allocator struct {
	numbering                   // so far
	shared    bool              // the maps of the numbering are in use elsewhere
	owners    map[uint32]uint64 // part for the node → node id in latest
	live      int               // nodes when all was counted last
}

// own copies the maps of the numbering before a change, if they are in use elsewhere.
func (a *allocator) own() {
	if !a.shared {
		return
	}
	displaced, versions := make(map[uint64]uint32, len(a.displaced)), make(map[string]uint32, len(a.versions))
	maps.Copy(displaced, a.displaced)
	maps.Copy(versions, a.versions)
	a.displaced, a.versions, a.shared = displaced, versions, false
}

// addNode gives the node with this id in latest a number. If all are taken, which needs millions of nodes, it shares one.
func (a *allocator) addNode(id uint64) {
	part := a.node(id)
	for len(a.owners) < 1<<a.bits-2 {
		owner, taken := a.owners[part]
		if !taken {
			a.owners[part] = id
			if part != a.node(id) {
				a.own()
				a.displaced[id] = part
			}
			return
		}
		if owner == id {
			return
		}
		part = following(part, a.bits)
	}
}

// addVersion is the same for a version, whose directory has this id.
func (a *allocator) addVersion(name string, id uint64) {
	if _, ok := a.versions[name]; ok {
		return
	}
	a.own()
	taken := slices.Collect(maps.Values(a.versions))
	part := choice(id, versionBits)
	for range 1 << versionBits {
		if !slices.Contains(taken, part) {
			break
		}
		part = following(part, versionBits)
	}
	a.versions[name] = part
}

// A heldNode is a node outside the trees that a process may have open.
type heldNode struct {
	path string // absolute
	view tree.View
	dir  bool
}

// renumber gives out all numbers anew. The nodes of first and the held ones keep what they have in n, which may be nothing;
// the other trees come after them.
func (f *rawFS) renumber(n numbering, first *build.Snapshot, held []heldNode, others ...*build.Snapshot) {
	a := &allocator{owners: map[uint32]uint64{}}
	a.numbering = numbering{n.bits, maps.Clone(n.displaced), map[string]uint32{}}
	if a.displaced == nil {
		a.displaced = map[uint64]uint32{}
	}
	var versions []string
	for name := range first.Root().Children() {
		versions = append(versions, name)
	}
	for _, h := range held {
		version, _ := splitVersion(h.path)
		versions = append(versions, version)
	}
	for _, name := range versions {
		if part, ok := n.versions[name]; ok {
			a.versions[name] = part
		}
	}
	for _, name := range versions {
		a.addVersion(name, f.key.dir("/"+name))
	}
	f.addNodes(a, first)
	a.live = len(a.owners)
	for _, h := range held {
		_, rest := splitVersion(h.path)
		if h.dir {
			a.addNode(f.key.dir(inLatest(rest)))
		} else {
			a.addNode(f.key.node(inLatest(rest), h.view))
		}
	}
	for _, s := range others {
		f.addVersions(a, s)
		f.addNodes(a, s)
	}
	maps.DeleteFunc(a.displaced, func(id uint64, part uint32) bool { return a.owners[part] != id })
	f.numbers = a
}

func (f *rawFS) addVersions(a *allocator, s *build.Snapshot) {
	for name := range s.Root().Children() {
		a.addVersion(name, f.key.dir("/"+name))
	}
}

func (f *rawFS) addNodes(a *allocator, s *build.Snapshot) {
	if latest, ok := s.View(tree.Latest); ok {
		a.addNode(f.key.dir(inLatest("")))
		for path, v := range latest.Walk() {
			a.addNode(f.key.node(inLatest("/"+path), v))
		}
	}
}

// prepare is the tree of s, in which what had a number in the tree before keeps it. c is the change from that.
func (f *rawFS) prepare(s *build.Snapshot, c build.Change) *servedTree {
	t := &servedTree{snapshot: s}
	if old := f.current.Load(); old == nil {
		f.renumber(numbering{bits: nodeBits}, s, nil)
	} else {
		t.generation = old.generation + 1
		if a := f.numbers; c.Versions || len(a.owners) > 2*a.live+renumberSlack {
			f.renumber(a.numbering, old.snapshot, f.table.held())
			f.addVersions(f.numbers, s)
		}
		for _, path := range slices.Concat(c.Added, c.Changed) {
			if path != "" {
				path = "/" + path
			}
			if v, ok := s.Find(inLatest(path)); ok {
				f.numbers.addNode(f.key.node(inLatest(path), v))
			}
		}
	}
	t.numbering, f.numbers.shared = f.numbers.numbering, true
	return t
}
