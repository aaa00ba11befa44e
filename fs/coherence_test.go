package fs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/testdata/stress"
)

// A given source states what it was given last.
type given struct {
	fragment atomic.Pointer[build.Fragment]
}

func (g *given) Name() string { return "given" }

func (g *given) Load(context.Context) (*build.Fragment, error) { return g.fragment.Load(), nil }

// stressed is a tree at versions of a value and of the names beside it.
func stressed(value, names int64) *build.Fragment {
	changes := map[string]string{"meta-data/tags/instance/value": stress.Payload(value)}
	for name, text := range stress.Names(names) {
		changes["meta-data/tags/instance/"+name] = text
	}
	return fragment(changes)
}

// TestNoProcessSeesAnOldValueAfterPublish changes a value, its length and the names beside it as fast
// as the store can.
func TestNoProcessSeesAnOldValueAfterPublish(t *testing.T) {
	var src given
	src.fragment.Store(stressed(0, 0))
	store := source.NewStore(env, &src)
	if _, err := store.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := mountSnapshot(t, store.Snapshot())
	store.Attach(d)
	bind := t.TempDir()
	if err := unix.Mount(filepath.Join(d.Dir(), "latest/meta-data"), bind, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	unmountLater(t, bind)
	dir := filepath.Join(d.Dir(), "latest/meta-data/tags/instance")
	stress.Run(t, stress.Target{
		Dir: dir, Bind: filepath.Join(bind, "tags/instance"), Duration: stress.Duration(t, 20*time.Second), Least: 50,
		Change: func(value, names int64) error {
			src.fragment.Store(stressed(value, names))
			if _, err := store.Reload(t.Context()); err != nil {
				return err
			}
			want, _ := store.Snapshot().Find("/latest/meta-data/tags/instance")
			// The kernel marks new attributes as valid just before it stores them (fuse_change_attributes_common),
			// so a stat at that moment, here while the lister's is being answered, gets the old time.
			for range 100 {
				if info, err := os.Stat(dir); err != nil || info.ModTime().Equal(want.ModTime()) {
					return err
				}
			}
			return errors.New("the directory's time is not the snapshot's")
		},
	})
	t.Logf("requests: %v", d.Requests())
}
