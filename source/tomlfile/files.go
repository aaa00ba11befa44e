package tomlfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

var errNotRegular = errors.New("not a regular file")

// A sizeError is the size in bytes of a file that is too large.
type sizeError int64

func (e sizeError) Error() string { return fmt.Sprintf("%d bytes are too many", int64(e)) }

// readFile reads a regular file of at most limit bytes, and tells its modification time. Opening does
// not wait for the writer of a FIFO. Errors do not hold the path: a secret that was put in the place
// of a file's name must not be printed.
func readFile(path string, limit int) ([]byte, time.Time, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, time.Time{}, withoutPath(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, time.Time{}, withoutPath(err)
	}
	if !info.Mode().IsRegular() {
		return nil, time.Time{}, errNotRegular
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, time.Time{}, withoutPath(err)
	}
	if len(data) > limit {
		return nil, time.Time{}, sizeError(max(info.Size(), int64(len(data))))
	}
	return data, info.ModTime(), nil
}

func withoutPath(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// contents reads the file that n names, relative to the folder of the instance file. The time is when
// the value last changed: the later of the two files' modification times.
func (n node) contents(limit int) (data []byte, mtime time.Time, ok bool) {
	name, ok := n.text()
	if !ok {
		return nil, time.Time{}, false
	}
	if name == "" {
		n.fault("names no file", "")
		return nil, time.Time{}, false
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(n.d.path), name)
	}
	n.d.refer(name)
	data, mtime, err := readFile(name, limit)
	if err != nil {
		var tooLarge sizeError
		if errors.As(err, &tooLarge) {
			n.fault(fmt.Sprintf("the file that it names has %d bytes: %d are allowed", int64(tooLarge), limit), "")
		} else {
			n.fault("the file that it names cannot be read: "+err.Error(), "a relative name starts at the folder of this file")
		}
		return nil, time.Time{}, false
	}
	if mtime.Before(n.d.mtime) {
		mtime = n.d.mtime
	}
	return data, mtime, true
}

// environment is the environment variable that n names.
func (n node) environment() (string, bool) {
	name, ok := n.text()
	if !ok {
		return "", false
	}
	n.d.file.Environment = append(n.d.file.Environment, name)
	value := os.Getenv(name)
	if value == "" {
		n.fault("the environment variable that it names is not set, or empty", "set it where imdsfs is started")
	}
	return value, value != ""
}
