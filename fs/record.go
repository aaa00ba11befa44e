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

	"github.com/imdsfs/imdsfs/source/tree"
	"golang.org/x/sys/unix"
)

// A Keeper holds descriptors for a successor of this process, whatever becomes of it: systemd's file descriptor store, for
// example.
type Keeper interface {
	// Keep holds the descriptor under a name until Drop. When it returns nil, the descriptor is held. The file stays the
	// caller's, who may close it.
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

// format is that of the records, and of node ids and cookies (nodeid.go, readdir.go). A program with another format cannot
// go on with what this one has made.
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

// A treeRecord is one tree, with what the kernel may still have cached of earlier ones. Of the trees that are kept, the
// kernel may have cached the newest, and the one before where that differs.
type treeRecord struct {
	Number   uint64
	Snapshot []byte
	Late     []pendingRecord // what the kernel has not taken yet of trees before
	Files    []fileRecord    // that the kernel may know from trees before
	Dirs     []string        // the same
	Numbers  *numberRecord   // nil: the daemon showed node ids as inode numbers
}

// A numberRecord is the inode numbers of a tree, see [numbering].
type numberRecord struct {
	Bits     uint
	Odd      map[uint64]uint32
	Versions map[string]uint32
	DirShift time.Duration
}

// A pendingRecord is an [invalidation] that the kernel has not taken yet.
type pendingRecord struct {
	Dir   string
	Names []string
	Attr  bool
	Below []string
}

func (inv *invalidation) record(dir string) pendingRecord {
	return pendingRecord{dir, inv.names, inv.attr, inv.below}
}

// A fileRecord is a file that a process may have open although it was replaced.
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

// memoryFile is a file without a name that holds a record with a checksum, behind a counter if asked for. It is never on a
// disk, since there are secrets in it.
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

func treeName(number uint64) string { return keptTree + strconv.FormatUint(number, 10) }

func treeNumber(name string) (uint64, bool) {
	text, ok := strings.CutPrefix(name, keptTree)
	n, err := strconv.ParseUint(text, 10, 64)
	return n, ok && err == nil
}
