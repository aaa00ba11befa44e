// Package atomicfile replaces files as a whole: whatever kills the process or the machine, there is
// the old content or the new one, never neither and never half. It reads them with the same care.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Read reads a regular file of at most limit bytes. What somebody may have put in its place is refused, and neither
// followed nor waited for: a symbolic link, a FIFO, a device.
func Read(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file: remove it", path)
	case info.Size() > limit:
		return nil, fmt.Errorf("%s: longer than %d bytes", path, limit)
	}
	text, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text, nil
}

// Write puts content at path with the given mode: write, fsync, rename, fsync of the directory. What a
// killed one leaves behind (.NAME.new beside path) the next one for path removes; two at once for one
// path may fail. Errors name path, and not the file beside it.
func Write(path string, content []byte, mode os.FileMode) error {
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return about(path, err)
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return about(path, err)
	}
	return about(path, finish(f, content, mode, func() error { return os.Rename(temp, path) }))
}

// Create is Write for a file that is not there yet. If it is by now the error is [os.ErrExist], and it stays as it is.
// Many at once for one path agree on one content.
func Create(path string, content []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return about(path, err)
	}
	return about(path, finish(f, content, mode, func() error { return os.Link(f.Name(), path) }))
}

// finish fills the file, gives it its name, and removes it under the name that it has until then.
func finish(f *os.File, content []byte, mode os.FileMode, name func() error) error {
	defer os.Remove(f.Name()) // gone once it is renamed
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
	if err := name(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(f.Name()))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// about is err as one of writing path.
func about(path string, err error) error {
	var onPath *os.PathError
	var onTwo *os.LinkError
	switch {
	case errors.As(err, &onPath):
		err = onPath.Err
	case errors.As(err, &onTwo):
		err = onTwo.Err
	}
	if err == nil {
		return nil
	}
	return &os.PathError{Op: "write", Path: path, Err: err}
}
