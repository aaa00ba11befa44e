package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
)

// largeFiles of 1 MiB are the most that fit into a tree next to the rest.
const largeFiles = build.MaxTree/build.MaxLeaf - 1

// largeTree reports what the largest tree costs. An instance file may not be that large, so a child ([holdLarge]) publishes
// the tree without one.
func (e *env) largeTree(ctx context.Context, c *checks) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	mount := filepath.Join(e.dir, "large-mount")
	s, err := start("ready", mount, exec.Command(self, "-hold", mount))
	if err != nil {
		return err
	}
	defer s.stop()
	what := func(text string) string { return fmt.Sprintf("tree of %d MiB: %s", largeFiles, text) }
	c.report(what("resident memory of the door when ready"), fmt.Sprintf("%.0f MiB", s.mib("VmRSS")))
	begin := time.Now()
	cat := exec.CommandContext(ctx, "/bin/sh", "-c", `cat "$0"/* | wc -c`, filepath.Join(mount, "latest", manyDir))
	out, err := cat.Output()
	took := time.Since(begin)
	if err != nil {
		return err
	}
	if got, want := strings.TrimSpace(string(out)), fmt.Sprint(largeFiles*build.MaxLeaf); got != want {
		return fmt.Errorf("cat prints %s bytes, not %s", got, want)
	}
	c.report(what("`cat` of all, cold"), pretty(took))
	c.report(what("resident memory of the door afterwards"), fmt.Sprintf("%.0f MiB", s.mib("VmRSS")))
	return nil
}

// holdLarge mounts the largest tree until SIGTERM.
func holdLarge(dir string) error {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM, syscall.SIGINT)
	leaves := map[string]tree.Value{}
	for i := range largeFiles {
		text := strings.Repeat(string(rune('a'+i%26)), build.MaxLeaf)
		leaves[fmt.Sprintf(manyDir+"/value-%05d", i)] = tree.Value{Bytes: []byte(text), Mtime: time.Now(), Origin: tree.Origin{Place: "bench"}}
	}
	s, err := build.Build(nil, build.Env{Now: time.Now()}, &build.Fragment{Leaves: leaves})
	if err != nil {
		return err
	}
	runtimeDir := dir + ".run"
	if err := os.Mkdir(runtimeDir, 0o755); err != nil {
		return err
	}
	d, err := fs.Mount(fs.Config{Dir: dir, RuntimeDir: runtimeDir}, s)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	<-term
	return errors.Join(d.Unmount(), os.RemoveAll(runtimeDir))
}
