// Package watch tells when files become other ones, for sources that read files.
//
//	marks.Add(path), read path ──▶ Follow(marks) ──▶ inotify on the folders ──▶ a name is another file ──▶ changed()
//
// [Marks] are taken before the files are read, so that no change between reading and watching is lost.
package watch

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

const (
	// settle is how long nothing may happen before a change counts as complete: an editor that
	// writes in place empties the file first.
	settle = 8 * time.Millisecond
	// settleMost bounds the wait where something happens all the time.
	settleMost = 200 * time.Millisecond
	// retryFolders is how often folders that are missing are looked for.
	retryFolders = time.Second
	maxLinks     = 40 // symbolic links in one path, as in Linux
)

// Files tells when any of some files became another one: written, replaced by rename, or reached
// through a symbolic link that was swapped (Kubernetes' ..data). It watches folders, because a file
// that is replaced takes its watch along.
type Files struct {
	changed func()
	warn    func(error)
	notify  *fsnotify.Watcher
	seen    Marks
	folders map[string]bool // watched
	missing bool            // a folder could not be watched
	control chan func()
}

// Marks are the states of files, by their absolute paths.
type Marks map[string]identity

// Add marks the file at an absolute path as it is now.
func (m Marks) Add(path string) { m[path] = identify(path) }

// identity tells one state of a file from the next.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
	link         unix.Timespec // ctime of the name itself: a link that is refused may be given to another owner
	err          error
}

// New starts to watch nothing; ctx ends it. changed is called after a change and must not block. warn gets what goes
// wrong; then changes may be missed.
func New(ctx context.Context, changed func(), warn func(error)) (*Files, error) {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch for changes: %w", err)
	}
	w := &Files{changed: changed, warn: warn, notify: n, seen: Marks{}, folders: map[string]bool{}, control: make(chan func())}
	go w.run(ctx)
	return w, nil
}

// Follow watches the marked files from now on instead of those before. What is another one already than when it was
// marked counts as a change.
func (w *Files) Follow(ctx context.Context, marks Marks) {
	select {
	case w.control <- func() {
		w.seen = marks
		w.watchFolders()
		w.tell()
	}:
	case <-ctx.Done():
	}
}

func (w *Files) run(ctx context.Context) {
	defer w.notify.Close()
	retry := time.NewTicker(retryFolders)
	defer retry.Stop()
	var settled <-chan time.Time
	var latest time.Time // for settled
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-w.control:
			f()
		case _, ok := <-w.notify.Events:
			if !ok {
				return
			}
			if settled == nil {
				latest = time.Now().Add(settleMost)
			}
			settled = time.After(max(0, min(settle, time.Until(latest))))
		case err := <-w.notify.Errors:
			w.warn(err) // events were lost, so look at once
			settled = time.After(0)
		case <-settled:
			settled = nil
			w.watchFolders()
			w.tell()
		case <-retry.C:
			if w.missing {
				w.watchFolders()
				w.tell()
			}
		}
	}
}

// tell looks, and tells if any file is another one than at the last look.
func (w *Files) tell() {
	now := make(Marks, len(w.seen))
	for path := range w.seen {
		now.Add(path)
	}
	same := maps.Equal(now, w.seen)
	if w.seen = now; !same {
		w.changed()
	}
}

func identify(path string) identity {
	var st, link unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return identity{err: err}
	}
	if err := unix.Lstat(path, &link); err != nil {
		return identity{err: err}
	}
	return identity{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim, link: link.Ctim}
}

// watchFolders watches every folder in which a rename can change where a file's path leads.
func (w *Files) watchFolders() {
	want := map[string]bool{}
	for path := range w.seen {
		for _, folder := range foldersOf(path) {
			want[folder] = true
		}
	}
	// A folder that was removed and made anew has lost its watch; adding one again is harmless.
	w.missing = false
	for folder := range want {
		if err := w.notify.Add(folder); err != nil {
			w.missing = true
			if !os.IsNotExist(err) && !w.folders[folder] {
				w.warn(fmt.Errorf("watch %s for changes: %w", folder, err))
			}
		}
	}
	for folder := range w.folders {
		if !want[folder] {
			w.notify.Remove(folder) // an error says that the folder is gone
		}
	}
	w.folders = want
}

// foldersOf follows a path as the kernel does and returns the folder of each name in it that is a
// symbolic link, and of the file itself.
func foldersOf(path string) []string {
	var folders []string
	at, links := "/", 0
	names := strings.Split(path, "/")
	for len(names) > 0 {
		name := names[0]
		names = names[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		full := filepath.Join(at, name)
		target, err := os.Readlink(full)
		if err != nil || links == maxLinks {
			if len(names) == 0 {
				folders = append(folders, at)
			}
			at = full
			continue
		}
		links++
		folders = append(folders, at)
		if filepath.IsAbs(target) {
			at = "/"
		}
		names = append(strings.Split(target, "/"), names...)
	}
	return folders
}
