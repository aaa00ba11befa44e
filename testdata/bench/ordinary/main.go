// Command ordinary shows a copy of a directory as one would write it with go-fuse's fs package: its
// own in-memory file, and its defaults.
//
//	ordinary SOURCE MOUNTPOINT   # prints "ready"; ends with SIGTERM
package main

import (
	"context"
	"fmt"
	iofs "io/fs"
	"os"
	"os/signal"
	"path"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

func main() {
	if err := serve(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintf(os.Stderr, "ordinary: error: %v\n", err)
		os.Exit(1)
	}
}

func serve(from, mountpoint string) error {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM, syscall.SIGINT)
	server, err := fs.Mount(mountpoint, &root{from: os.DirFS(from)}, nil)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	<-term
	return server.Unmount()
}

type root struct {
	fs.Inode
	from iofs.FS
}

var _ fs.NodeOnAdder = (*root)(nil)

// OnAdd implements [fs.NodeOnAdder]: the whole tree is made when it is mounted.
func (r *root) OnAdd(ctx context.Context) {
	if err := add(ctx, &r.Inode, r.from, "."); err != nil {
		panic(err)
	}
}

func add(ctx context.Context, parent *fs.Inode, from iofs.FS, dir string) error {
	entries, err := iofs.ReadDir(from, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if e.IsDir() {
			child := parent.NewPersistentInode(ctx, &fs.Inode{}, fs.StableAttr{Mode: syscall.S_IFDIR})
			parent.AddChild(e.Name(), child, false)
			if err := add(ctx, child, from, name); err != nil {
				return err
			}
			continue
		}
		data, err := iofs.ReadFile(from, name)
		if err != nil {
			return err
		}
		file := &fs.MemRegularFile{Data: data, Attr: fuse.Attr{Mode: 0o444}}
		parent.AddChild(e.Name(), parent.NewPersistentInode(ctx, file, fs.StableAttr{}), false)
	}
	return nil
}
