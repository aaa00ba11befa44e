// Package atomicfile replaces files as a whole. If the process or the machine dies, the file has the old content or the new
// one, never a part of it.
//
//	Write:  content ──▶ .NAME.new ────▶ fsync ──▶ rename to NAME ──▶ fsync of the directory
//	Create: content ──▶ .NAME-random ─▶ fsync ──▶ link as NAME, if it is free ──▶ fsync of the directory
//	Read:   NAME, if it is a regular file and not too long ──▶ content
//
// Every file that imdsfs replaces is written here.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Read reads a regular file of at most limit bytes. It refuses anything else that another user may have put there: it does
// not follow a symbolic link, and does not wait for a FIFO or a device.
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

// Write replaces the file at path by content, with the given mode. If a Write is killed, it leaves .NAME.new beside path,
// and the next Write of path removes it. Two at once for one path may fail. Errors name path, not the file beside it.
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

// Create is Write for a file that does not exist yet. If it exists, it is not changed, and the error is [os.ErrExist]. If
// several processes create path at once, one of them succeeds.
func Create(path string, content []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return about(path, err)
	}
	return about(path, finish(f, content, mode, func() error { return os.Link(f.Name(), path) }))
}

// finish writes the file, calls name to give it its final name, and removes its temporary name.
func finish(f *os.File, content []byte, mode os.FileMode, name func() error) error {
	defer os.Remove(f.Name()) // fails after a rename, which is fine
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

// about returns err as an error of writing path.
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
