// Package atomicfile replaces files as a whole: whatever kills the process or the machine, there is
// the old content or the new one, never neither and never half.
package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
)

// Write puts content at path with the given mode: write, fsync, rename, fsync of the directory. What a
// killed one leaves behind (.NAME.new beside path) the next one for path removes; two at once for one
// path may fail.
func Write(path string, content []byte, mode os.FileMode) error {
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer os.Remove(temp) // gone once it is renamed
	defer f.Close()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
