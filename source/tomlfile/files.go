package tomlfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/safepath"
)

// A sizeError says that a file is too large. It is the size in bytes.
type sizeError int64

func (e sizeError) Error() string { return fmt.Sprintf("%d bytes are too many", int64(e)) }

// readFile reads a regular file of at most limit bytes if the reader may read it, and returns its metadata too. It reads
// the same file that it has checked, and never opens a FIFO or a device. Errors do not contain the path: the user may have
// put a secret where the name of a file belongs. Only [*safepath.Error] has a path, of something that exists and is refused.
func (r reader) readFile(path string, limit int) ([]byte, *unix.Stat_t, error) {
	way := &way{reader: r}
	held, entry, err := safepath.Walk(path, way)
	if err != nil {
		return nil, nil, withoutPath(deniedDir(err))
	}
	defer held.Close()
	if err := way.target(held, entry); err != nil {
		return nil, nil, err
	}
	// O_NONBLOCK: do not wait for a lease of the owner.
	f, err := safepath.Reopen(held, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if errors.Is(err, fs.ErrPermission) {
		err = denied(entry.Path, &entry.Stat, unix.R_OK)
	}
	if err != nil {
		return nil, nil, withoutPath(err)
	}
	defer f.Close()
	// Check again: the mode may have changed before the file was opened.
	if err := unix.Fstat(int(f.Fd()), &entry.Stat); err != nil {
		return nil, nil, err
	}
	if err := way.target(held, entry); err != nil {
		return nil, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, nil, withoutPath(err)
	}
	if len(data) > limit {
		return nil, nil, sizeError(max(entry.Stat.Size, int64(len(data))))
	}
	return data, &entry.Stat, nil
}

func mtimeOf(st *unix.Stat_t) time.Time { return time.Unix(st.Mtim.Unix()) }

func withoutPath(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// contents reads the file that n names, relative to the folder of the instance file. mtime is when the value last changed:
// the later mtime of the two files.
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
	data, st, err := n.d.reader.readFile(n.d.refer(name), limit)
	var irregular *irregularError
	if errors.As(err, &irregular) {
		err = &irregular.refusal
	}
	var tooLarge sizeError
	var refused *safepath.Error
	var denied *DeniedError
	switch {
	case errors.As(err, &denied):
		n.fault("the file that it names cannot be read: "+denied.Error(), denied.Hint)
	case errors.As(err, &tooLarge):
		n.fault(fmt.Sprintf("the file that it names has %d bytes: %d are allowed", int64(tooLarge), limit), "")
	case errors.As(err, &refused):
		n.fault("the file that it names is refused: "+refused.Error(), refused.Hint)
	case err != nil:
		n.fault("the file that it names cannot be read: "+err.Error(), "a relative name starts at the folder of this file")
	}
	if err != nil {
		return nil, time.Time{}, false
	}
	mtime = mtimeOf(st)
	if mtime.Before(n.d.mtime) {
		mtime = n.d.mtime
	}
	return data, mtime, true
}

// environment returns the value of the environment variable that n names.
func (n node) environment() (string, bool) {
	name, ok := n.text()
	if !ok || !n.acts("give "+strings.TrimSuffix(n.name, "-env")+"-file") {
		return "", false
	}
	n.d.file.Environment = append(n.d.file.Environment, name)
	value := os.Getenv(name)
	if value == "" {
		n.fault("the environment variable that it names is not set, or empty", "set it where imdsfs is started; with --user, start that again after the file names a new one")
	}
	return value, value != ""
}
