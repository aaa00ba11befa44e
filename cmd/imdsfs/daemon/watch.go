package daemon

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
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

// A watcher tells when any of some files became another one: written, replaced by rename, or reached
// through a symbolic link that was swapped (Kubernetes' ..data). It watches folders, because a file
// that is replaced takes its watch along.
type watcher struct {
	// changed receives after a change; follow is called next.
	changed chan struct{}

	notify  *fsnotify.Watcher
	warn    func(error)
	files   []string // absolute
	seen    map[string]identity
	folders map[string]bool // watched
	missing bool            // a folder could not be watched
	control chan func()
}

// identity tells one state of a file from the next.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
	link         unix.Timespec // ctime of the name itself: a link that is refused may be given to another owner
	err          error
}

// newWatcher starts to watch nothing; ctx ends it.
func newWatcher(ctx context.Context, warn func(error)) (*watcher, error) {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch for changes: %w", err)
	}
	w := &watcher{
		changed: make(chan struct{}, 1), notify: n, warn: warn,
		seen: map[string]identity{}, folders: map[string]bool{}, control: make(chan func()),
	}
	go w.run(ctx)
	return w, nil
}

// follow watches these files from now on instead of those before. It reports whether any of them may
// have changed since it was last looked at, by follow or before changed was sent: then what was read
// of it may be old.
func (w *watcher) follow(ctx context.Context, files []string) (again bool) {
	done := make(chan bool, 1)
	select {
	case w.control <- func() {
		w.files = slices.Clone(files)
		w.watchFolders()
		done <- w.look()
	}:
		return <-done
	case <-ctx.Done():
		return false
	}
}

func (w *watcher) run(ctx context.Context) {
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

func (w *watcher) tell() {
	if w.look() {
		select {
		case w.changed <- struct{}{}:
		default: // it was told already
		}
	}
}

// look reports whether any file is another one than at the last look.
func (w *watcher) look() bool {
	now := map[string]identity{}
	for _, path := range w.files {
		now[path] = identify(path)
	}
	same := maps.Equal(now, w.seen)
	w.seen = now
	return !same
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
func (w *watcher) watchFolders() {
	want := map[string]bool{}
	for _, path := range w.files {
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
