package fs

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imdsfs/imdsfs/source/atomicfile"
	"github.com/imdsfs/imdsfs/source/tree"
)

// A key makes node ids and directory cookies. They are pure functions of what they name, so they stay over a restart. They
// are keyed, so an inode number, which is made from a node id, tells nothing about a secret's content.
type key [32]byte

const maxKeyFile = 4 << 10 // bytes; a good one has 32

// loadKey reads the key from the run-time directory and makes it if there is none. Daemons that start at the same time agree
// on one key.
func loadKey(runtimeDir string) (k key, err error) {
	path := filepath.Join(runtimeDir, "inode.key")
	for range 2 {
		text, err := atomicfile.Read(path, maxKeyFile)
		switch {
		case err == nil && len(text) == len(k):
			return key(text), nil
		case err == nil:
			return k, fmt.Errorf("%s holds %d bytes instead of %d: remove it, a new one is made", path, len(text), len(k))
		case !errors.Is(err, os.ErrNotExist):
			return k, err
		}
		rand.Read(k[:])
		if err := atomicfile.Create(path, k[:], 0o600); err != nil && !errors.Is(err, os.ErrExist) {
			return k, fmt.Errorf("make inode key: %w", err)
		}
	}
	return k, fmt.Errorf("%s vanishes again and again: another program removes it", path)
}

// sum is 64 bits of SHA-256 behind the key; cutting the rest off makes it as good as an HMAC. Two nodes with one id would
// need about 2^32 nodes, and nobody without the key can look for them.
func (k *key) sum(domain byte, fixed []byte, name string) uint64 {
	text := make([]byte, 0, 256)
	text = append(text, k[:]...)
	text = append(text, domain)
	text = append(text, fixed...)
	text = append(text, name...)
	digest := sha256.Sum256(text)
	return binary.BigEndian.Uint64(digest[:])
}

// node is the node id of what stands at the absolute path. A file with other bytes or another owner, group or mode has
// another one: an inode never changes.
func (k *key) node(path string, v tree.View) uint64 {
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
