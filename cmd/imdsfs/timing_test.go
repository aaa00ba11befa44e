package main

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// TestAChangeReachesBothDoorsQuickly: 20 ms is the bound on a machine of one's own, ten times that here, for the best
// round: others use the machine.
func TestAChangeReachesBothDoorsQuickly(t *testing.T) {
	const rounds, bound = 21, 200 * time.Millisecond
	const path = "/latest/meta-data/tier"
	text := func(i int) string { return least("", fmt.Sprintf("tier = \"tier %d\"", i)) }
	file := write(t, "web.toml", text(0))
	d := serve(t, file, true)
	client := &watchfulClient{d, http.Client{Timeout: kit.Patience}}
	doors := map[string]func() (string, error){
		"HTTP": func() (string, error) { return client.get(path) },
		"the mount": func() (string, error) {
			fd, err := unix.Open(d.mount+path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return "", err
			}
			defer unix.Close(fd)
			buf := make([]byte, 100)
			n, err := unix.Read(fd, buf)
			return string(buf[:max(0, n)]), err
		},
	}
	var took []time.Duration
	for i := range rounds {
		want := fmt.Sprintf("tier %d", i+1)
		if err := os.WriteFile(file+".new", []byte(text(i+1)), 0o600); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
		for name, show := range doors {
			for got := ""; got != want; {
				var err error
				if got, err = show(); err != nil || time.Since(start) > kit.Patience {
					t.Fatalf("%s shows %q, %v after %v; want %q", name, got, err, time.Since(start), want)
				}
			}
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("from rename to both doors: median %v, least %v, most %v", took[rounds/2], took[0], took[rounds-1])
	if took[0] > bound {
		t.Errorf("at least %v, want %v", took[0], bound)
	}
}
