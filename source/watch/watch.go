// Package watch notices when files change, for sources that read files.
//
//	marks.Add(path), read path ──▶ Follow(marks) ──▶ inotify on the folders ──▶ a file differs from its mark ──▶ changed()
//
// Take [Marks] before you read the files: then no change between reading and watching is lost.
package watch

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

const (
	// settle is how long nothing must happen before a change counts as complete: an editor that writes in place empties
	// the file first.
	settle = 8 * time.Millisecond
	// settleMost bounds that wait if changes never stop.
	settleMost = 200 * time.Millisecond
	// retryFolders is how often to look for missing folders.
	retryFolders = time.Second
	maxLinks     = 40 // symbolic links in one path, as in Linux
)

// Files watches a set of files. A file changes if it is written, replaced by rename, or reached through a symbolic link
// that was swapped (Kubernetes' ..data). Files watches folders, because a watch on a file goes with the old file when it is
// replaced.
type Files struct {
	changed func()
	warn    func(error)
	notify  *fsnotify.Watcher
	seen    Marks
	folders map[string]bool // watched folders
	missing bool            // a folder could not be watched

	mu   sync.Mutex
	next Marks         // to follow from now on; nil: no others
	wake chan struct{} // receives after next was set
}

// Marks holds the states of files by their absolute paths.
type Marks map[string]identity

// Add records the state of the file at an absolute path.
func (m Marks) Add(path string) {
	if _, marked := m[path]; !marked { // the first mark is the one from before every reading
		m[path] = identify(path)
	}
}

// identity tells one state of a file from the next.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
	link         unix.Timespec // ctime of a link itself: a refused link may be given to another owner
	err          error
}

// New starts a watch without files, which ends with ctx. changed is called after a change and must not block. warn gets
// errors; after one, changes may be missed.
func New(ctx context.Context, changed func(), warn func(error)) (*Files, error) {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch for changes: %w", err)
	}
	w := &Files{changed: changed, warn: warn, notify: n, seen: Marks{}, folders: map[string]bool{}, wake: make(chan struct{}, 1)}
	go w.run(ctx)
	return w, nil
}

// Follow watches the marked files from now on, and no others. A file that already differs from its mark counts as a
// change. Follow does not block.
func (w *Files) Follow(marks Marks) {
	w.mu.Lock()
	w.next = marks
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // run has not seen the marks before these
	}
}

func (w *Files) run(ctx context.Context) {
	defer w.notify.Close()
	retry := time.NewTicker(retryFolders)
	defer retry.Stop()
	var settled <-chan time.Time
	var latest time.Time // settled fires no later
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
			w.look()
		case _, ok := <-w.notify.Events:
			if !ok {
				return
			}
			if settled == nil {
				latest = time.Now().Add(settleMost)
			}
			settled = time.After(max(0, min(settle, time.Until(latest))))
		case err := <-w.notify.Errors:
			w.warn(err) // events were lost, so compare at once
			settled = time.After(0)
		case <-settled:
			settled = nil
			w.look()
		case <-retry.C:
			if w.missing {
				w.look()
			}
		}
	}
}

// look watches the folders of the files to follow, and compares the files.
func (w *Files) look() {
	w.mu.Lock()
	if w.next != nil {
		w.seen, w.next = w.next, nil
	}
	w.mu.Unlock()
	w.watchFolders()
	w.compare()
}

// compare calls changed if a file differs from its last known state.
func (w *Files) compare() {
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
	// A folder that was removed and made again has lost its watch. Adding a watch twice is harmless.
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
			w.notify.Remove(folder) // an error means that the folder is gone
		}
	}
	w.folders = want
}

// foldersOf follows path as the kernel does. It returns the folder of each symbolic link on the way, and the folder of the
// file itself.
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
