package token

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/atomicfile"
	"github.com/imdsfs/imdsfs/source/clock"
)

const (
	keyName    = "token.key"
	bootIDPath = "/proc/sys/kernel/random/boot_id"
	maxKeyFile = 256 // bytes; a valid one has 102
)

// Open returns an authority whose key is in dir/token.key (mode 0600), so that tokens survive a restart of the daemon. The
// directory must exist and belong to one daemon.
//
// The file also holds the kernel's boot id. A key of another boot is replaced, because expiries count from boot. A file
// that is damaged, that others can read or own, or that is no regular file is replaced too. The tokens of the old key
// become invalid, and clients ask for new ones. An error means that no new file could be written.
func Open(dir string, clock clock.Clock) (*Authority, error) {
	bootID, err := os.ReadFile(bootIDPath)
	if err != nil {
		return nil, fmt.Errorf("token key: %w (is /proc mounted?)", err)
	}
	return open(dir, strings.TrimSpace(string(bootID)), clock)
}

func open(dir, bootID string, clock clock.Clock) (*Authority, error) {
	path := filepath.Join(dir, keyName)
	key, err := readKey(path, bootID)
	if err != nil {
		rand.Read(key[:])
		if err := atomicfile.Write(path, fmt.Appendf(nil, "%s\n%x\n", bootID, key), 0o600); err != nil {
			return nil, fmt.Errorf("token key: %w", err)
		}
	}
	return New(key, clock), nil
}

// readKey fails for any file that cannot be trusted with the tokens of this boot.
func readKey(path, bootID string) (key [32]byte, err error) {
	// O_NONBLOCK: a FIFO in its place must not block the start.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return key, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return key, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o077 != 0 || int(st.Uid) != os.Geteuid() {
		return key, errors.New("not a regular file that only this user can read")
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return key, err
	}
	sealed, ok := strings.CutPrefix(string(text), bootID+"\n")
	if !ok {
		return key, errors.New("of another boot")
	}
	raw, err := hex.DecodeString(strings.TrimSuffix(sealed, "\n"))
	if err != nil || len(raw) != len(key) {
		return key, errors.New("damaged")
	}
	return [32]byte(raw), nil
}
