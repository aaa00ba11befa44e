package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
	"github.com/imdsfs/imdsfs/testdata/stress"
)

const stressed = "/latest/meta-data/tags/instance"

// stressFile is an instance file at versions of a value and of the names beside it.
func stressFile(value, names int64) string {
	var tags strings.Builder
	fmt.Fprintf(&tags, "[metadata-options]\ninstance-metadata-tags = \"enabled\"\n[tags]\nvalue = %q\n", stress.Payload(value))
	all := stress.Names(names)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&tags, "%s = %q\n", name, all[name])
	}
	return least("", "") + tags.String()
}

// A watchfulClient asks one door what it shows, on a connection that is kept. It fails no test, so any
// goroutine may use it.
type watchfulClient struct {
	*served
	http http.Client
}

func (c *watchfulClient) get(path string) (string, error) {
	resp, err := c.http.Get(c.url(path))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return string(body), err
}

// reaches waits until the number that a path begins with over HTTP is at least version.
func (c *watchfulClient) reaches(path string, version int64) error {
	for deadline := time.Now().Add(kit.Patience); ; {
		body, err := c.get(path)
		if err != nil {
			return err
		}
		number, _, _ := strings.Cut(body, " ")
		at, err := strconv.ParseInt(number, 10, 64)
		switch {
		case err != nil || at >= version:
			return err
		case time.Now().After(deadline):
			return fmt.Errorf("%s is still at %d, not at %d", path, at, version)
		}
	}
}

// TestWhatHTTPHasShownIsOnTheMount rewrites the instance file as fast as the daemon follows. As soon as
// HTTP shows a version, no process may see an older one on the mount.
func TestWhatHTTPHasShownIsOnTheMount(t *testing.T) {
	kit.RequireMount(t)
	file := write(t, "stress.toml", stressFile(0, 0))
	d := serve(t, file, true)
	bind := t.TempDir()
	if err := syscall.Mount(d.mount+"/latest", bind, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(bind, syscall.MNT_DETACH) })
	client := &watchfulClient{d, http.Client{Timeout: kit.Patience}}
	stress.Run(t, stress.Target{
		Dir: d.mount + stressed, Bind: filepath.Join(bind, strings.TrimPrefix(stressed, "/latest")),
		Duration: stress.Duration(t, 20*time.Second), Least: 20,
		Change: func(value, names int64) error {
			if err := os.WriteFile(file+".new", []byte(stressFile(value, names)), 0o600); err != nil {
				return err
			}
			return os.Rename(file+".new", file)
		},
		Wait: func(value, names int64) error {
			if err := client.reaches(stressed+"/value", value); err != nil {
				return err
			}
			return client.reaches(stressed+"/at", names)
		},
	})
	if text := d.log.String(); strings.Contains(text, "level=error") {
		t.Errorf("the daemon complained: %.2000s", text)
	}
}
