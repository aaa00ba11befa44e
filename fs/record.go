package fs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs/fault"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
)

// A Keeper holds descriptors for a successor of this process, whatever becomes of it: systemd's file
// descriptor store, say.
type Keeper interface {
	// Keep has the descriptor held under a name until Drop. When it returns nil, it is held. The file
	// stays the caller's, who may close it.
	Keep(name string, f *os.File) error
	// Drop lets go of what is held under a name.
	Drop(name string)
}

// Names of what is kept.
const (
	KeptPrefix = "fuse-"            // of all names
	KeptDevice = KeptPrefix + "dev" // /dev/fuse; a mount is kept as long as this is
	keptLock   = KeptPrefix + "lock"
	keptMount  = KeptPrefix + "mount" // a [mountRecord], behind the number of the tree that is served
	keptTree   = KeptPrefix + "tree-" // a [treeRecord]; its number follows
)

// format is that of the records, and of node ids and cookies (inode.go, dir.go): what one of them
// makes another cannot go on with.
const format = 1

// A mountRecord is what does not change as long as the mount lasts.
type mountRecord struct {
	Format  int
	Dir     string
	Number  string // "major:minor" of the mount's device
	Private bool
	Key     key
	Init    []byte // the kernel's first request
	// NoFileHandles is what the answer to it asked for. A record of a version that did not ask lacks it.
	NoFileHandles bool
}

// A treeRecord is one tree with what the kernel may still believe besides. The kernel may believe in the
// newest tree that is kept, and where it differs in the one before.
type treeRecord struct {
	Number   uint64
	Snapshot []byte
	Late     []lateRecord  // what is not told yet of trees before
	Files    []fileRecord  // that the kernel may know from trees before
	Dirs     []string      // the same
	Numbers  *numberRecord // nil: the daemon showed node ids as inode numbers
}

// A numberRecord is the inode numbers of a tree, see [numbering].
type numberRecord struct {
	Bits     uint
	Odd      map[uint64]uint32
	Versions map[string]uint32
	DirShift time.Duration
}

type lateRecord struct {
	Dir   string
	Names []string
	Attr  bool
	Below []string
}

type fileRecord struct {
	Path    string
	Content []byte
	Attr    tree.Attr
	Mtime   time.Time
}

const (
	counterSize  = 8 // bytes, before a mountRecord
	maxRecord    = 1 << 30
	sealTree     = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	sealMount    = unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	checksumSize = sha256.Size
)

// memoryFile is a file without a name that holds a record with a checksum, behind a counter if asked for.
// It is never on a disk: there are secrets in it.
func memoryFile(name string, record any, counter bool) (*os.File, error) {
	var payload bytes.Buffer
	if err := gob.NewEncoder(&payload).Encode(record); err != nil {
		return nil, fmt.Errorf("encode %s: %w", name, err)
	}
	fd, err := unix.MemfdCreate("imdsfs "+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	var head []byte
	seals := sealTree
	if counter {
		head, seals = make([]byte, counterSize), sealMount
	}
	sum := sha256.Sum256(payload.Bytes())
	head = append(head, sum[:]...)
	if _, err = f.Write(head); err == nil {
		_, err = f.Write(payload.Bytes())
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("keep %s: %w", name, err)
	}
	return f, nil
}

// readRecord reads what memoryFile wrote.
func readRecord(f *os.File, record any, counter bool) (count uint64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() > maxRecord {
		return 0, fmt.Errorf("%d bytes are too many", info.Size())
	}
	text, err := io.ReadAll(io.NewSectionReader(f, 0, info.Size()))
	if err != nil {
		return 0, err
	}
	if counter && len(text) >= counterSize {
		count, text = binary.NativeEndian.Uint64(text), text[counterSize:]
	}
	if len(text) < checksumSize {
		return 0, errors.New("it is cut off")
	}
	if sum := sha256.Sum256(text[checksumSize:]); !bytes.Equal(sum[:], text[:checksumSize]) {
		return 0, errors.New("its checksum is wrong")
	}
	return count, gob.NewDecoder(bytes.NewReader(text[checksumSize:])).Decode(record)
}

// A recorder of the mount has a Keeper hold what a successor has to know, before the kernel learns of it.
type record struct {
	keeper Keeper // nil: nothing is kept
	mount  *os.File
	number uint64   // of the newest tree
	trees  []uint64 // that are kept
	warn   func(string)
	failed bool // and warned of
}

// begin keeps what does not change, unless a predecessor has.
func (r *record) begin(m mountRecord) (err error) {
	if r.keeper == nil || r.mount != nil {
		return nil
	}
	if r.mount, err = memoryFile(keptMount, m, true); err != nil {
		return err
	}
	return r.keeper.Keep(keptMount, r.mount)
}

// resume goes on with the numbers of a predecessor, whose trees go as newer ones come.
func (r *record) resume(pre *Predecessor) {
	r.mount = pre.record
	for _, t := range pre.trees {
		r.number = t.Number
		r.trees = append(r.trees, t.Number)
	}
	r.number = max(r.number, pre.served)
}

// tree keeps a tree that is about to be served. Of those before, one stays. A failure is no obstacle to the
// change: a successor would notice that the tree is missing, and mount afresh.
func (r *record) tree(t *treeRecord, s *build.Snapshot) {
	if r.keeper == nil {
		return
	}
	r.number++
	err := r.keep(t, s)
	fault.At("tree kept")
	switch {
	case err == nil:
		r.failed = false
		r.trees = append(r.trees, r.number)
		for len(r.trees) > 2 {
			r.keeper.Drop(treeName(r.trees[0]))
			r.trees = r.trees[1:]
		}
	case !r.failed:
		r.failed = true
		r.warn(fmt.Sprintf("the tree cannot be kept for a successor: %v: should the daemon be killed now, its mount is lost", err))
	}
}

func (r *record) keep(t *treeRecord, s *build.Snapshot) (err error) {
	t.Number = r.number
	if t.Snapshot, err = s.MarshalBinary(); err != nil {
		return err
	}
	name := treeName(r.number)
	f, err := memoryFile(name, t, false)
	if err != nil {
		return err
	}
	defer f.Close()
	return r.keeper.Keep(name, f)
}

// served notes that the newest tree is.
func (r *record) served() {
	if r.keeper == nil {
		return
	}
	if _, err := r.mount.WriteAt(binary.NativeEndian.AppendUint64(nil, r.number), 0); err != nil {
		r.warn(fmt.Sprintf("keep the number of the tree: %v", err))
	}
	fault.At("tree noted")
}

// end lets go of everything.
func (r *record) end() {
	if r.keeper == nil {
		return
	}
	for _, name := range []string{KeptDevice, keptLock, keptMount} {
		r.keeper.Drop(name)
	}
	for _, n := range r.trees {
		r.keeper.Drop(treeName(n))
	}
	r.keeper = nil
	if r.mount != nil {
		r.mount.Close()
	}
}

func treeName(number uint64) string { return keptTree + strconv.FormatUint(number, 10) }

func treeNumber(name string) (uint64, bool) {
	text, ok := strings.CutPrefix(name, keptTree)
	n, err := strconv.ParseUint(text, 10, 64)
	return n, ok && err == nil
}
