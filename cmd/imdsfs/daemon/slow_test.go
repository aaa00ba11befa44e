package daemon

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// hangingSources counts the sources that tests have registered, which stay.
var hangingSources atomic.Int32

// A hangingSource answers the first time, and then not before its context ends.
type hangingSource struct {
	loads atomic.Int32
	fails bool // it fails instead
}

func (s *hangingSource) Name() string { return "hanging" }

func (s *hangingSource) Load(ctx context.Context) (*build.Fragment, error) {
	switch {
	case s.loads.Add(1) == 1:
		return &build.Fragment{Leaves: map[string]tree.Value{"meta-data/tier": {Bytes: []byte("gold")}}}, nil
	case s.fails:
		return nil, fmt.Errorf("no such machine")
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestTheDoorsServeWhatIsFreshWhileASourceHangsOrFails(t *testing.T) {
	for name, fails := range map[string]bool{"hangs": false, "fails": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "web.toml")
			state := func(rack string) {
				t.Helper()
				text := fmt.Sprintf("[meta-data]\ninstance-id = 'i-0a1b2c3d4e5f67890'\nrack = '%s'\n", rack)
				if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(file+".new", file); err != nil {
					t.Fatal(err)
				}
			}
			state("7")
			hanging, kind := &hangingSource{fails: fails}, fmt.Sprintf("hanging %d", hangingSources.Add(1))
			source.Register(source.Kind{Name: kind, New: func(source.Setup) source.Source { return hanging }})
			s, err := Config{
				File: file, Mount: None, Listen: []string{"127.0.0.1:0"}, Metrics: None, Admin: None, RuntimeDir: dir + "/run", StateDir: dir + "/state",
			}.Validate(nil)
			if err != nil {
				t.Fatal(err)
			}
			s.sources = []string{kind, "file"}
			log := logrus.New()
			log.SetOutput(io.Discard)

			ready, ended := make(chan *Daemon, 1), make(chan error, 1)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				ended <- Run(ctx, Start{Settings: s, Handover: handover.Disabled(), Log: log, Embedded: true, Ready: func(d *Daemon) { ready <- d }})
			}()
			var d *Daemon
			select {
			case d = <-ready:
			case err := <-ended:
				t.Fatal(err)
			case <-time.After(kit.Patience):
				t.Fatal("not ready")
			}
			get := func(path string) string {
				t.Helper()
				resp, err := http.Get("http://" + d.Addresses()[0] + "/latest/meta-data/" + path)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				text, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				return string(text)
			}
			state("8")
			kit.Eventually(t, "the door shows the file's new value", func() bool { return get("rack") == "8" })
			if got := get("tier"); got != "gold" {
				t.Errorf("the other source's last value is %q", got)
			}
			if n := hanging.loads.Load(); n < 2 {
				t.Errorf("it was loaded %d times: nothing hung", n)
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}
