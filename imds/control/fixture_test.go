package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
	"github.com/imdsfs/imdsfs/source/overlay"
	"github.com/imdsfs/imdsfs/source/tree"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

const patience = kit.Patience

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A file stands for the instance file.
type file struct {
	fragment *build.Fragment
	err      error
}

func (f *file) Name() string                                  { return "file" }
func (f *file) Load(context.Context) (*build.Fragment, error) { return f.fragment, f.err }

func stated(text string) tree.Value {
	return tree.Value{Bytes: []byte(text), Mtime: noon, Origin: tree.Origin{Place: "web.toml:7"}}
}

func values(pairs ...string) map[string]tree.Value {
	m := map[string]tree.Value{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = stated(pairs[i+1])
	}
	return m
}

// An instance is a Control with all that it acts on.
type instance struct {
	*Control
	t        testing.TB
	file     *file
	stateDir string
}

// newInstance starts the parts of a daemon. edit, if not nil, changes the file.
func newInstance(t testing.TB, edit func(*build.Fragment)) *instance {
	t.Helper()
	f := &build.Fragment{
		Leaves: values("meta-data/instance-id", "i-0a1b2c3d4e5f67890", "meta-data/local-ipv4", "10.0.12.34"),
	}
	if edit != nil {
		edit(f)
	}
	i := &instance{t: t, file: &file{fragment: f}, stateDir: t.TempDir()}
	i.start()
	return i
}

// start loads what is stored, as after a restart.
func (i *instance) start() {
	i.t.Helper()
	changes, err := overlay.Open(i.stateDir)
	if err != nil {
		i.t.Fatal(err)
	}
	clock := clock.NewManual(noon)
	store := source.NewStore(func() build.Env { return build.Env{Now: clock.Now()} }, i.file, changes)
	if _, err := store.Reload(context.Background()); err != nil {
		i.t.Fatal(err)
	}
	i.Control = &Control{
		Store: store, Overlay: changes, Clock: clock,
		Reload: store.Reload,
		Upgrade: func(_ context.Context, program string, by uint32) error {
			if by != uint32(os.Geteuid()) && by != 0 {
				return fmt.Errorf("uid %d asks", by)
			}
			if program != "/good" {
				return errors.New("it finds fault")
			}
			return nil
		},
		Status: func() Status { return Status{Version: "v1.2.3", PID: os.Getpid(), Started: noon} },
	}
}

// value is the value of an option.
func (i *instance) value(name string) string { return i.Store.Snapshot().Options().Text(name) }

// text is the leaf at a path below /latest, "-" if there is none.
func (i *instance) text(path string) string {
	v, ok := i.Store.Snapshot().Find("/latest/" + path)
	if !ok || v.IsDir() {
		return "-"
	}
	return string(v.Bytes())
}

// code is that of a refusal, "" for none.
func code(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	var refused *refusal
	if !errors.As(err, &refused) {
		t.Fatalf("an error that is no refusal: %v", err)
	}
	return refused.Code
}

// serve answers the admin API on a socket of this mode until the test ends.
func (i *instance) serve(mode os.FileMode) (socket string) {
	i.t.Helper()
	dir, err := os.MkdirTemp("", "imdsfs-control-") // others can enter it, unlike t.TempDir
	if err != nil {
		i.t.Fatal(err)
	}
	i.t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "admin.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		i.t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(socket, mode)); err != nil {
		i.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- i.Serve(ctx, listener, 0) }()
	i.t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				i.t.Errorf("Serve returned %v", err)
			}
		case <-time.After(patience):
			i.t.Error("Serve does not end with its context")
		}
	})
	return socket
}

// clientOf speaks HTTP over a Unix socket, with a connection for each request.
func clientOf(socket string) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
}

// A reply is a complete answer.
type reply struct {
	status  int
	body    string
	problem Problem
}

func ask(t testing.TB, socket, method, path string, body []byte) reply {
	t.Helper()
	req, err := http.NewRequest(method, "http://imdsfs"+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := clientOf(socket).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	r := reply{status: resp.StatusCode, body: string(text)}
	if r.status != http.StatusOK {
		if err := json.Unmarshal(text, &r.problem); err != nil || r.problem.Code == "" {
			t.Fatalf("%s %s: %d without a problem: %.200s", method, path, r.status, text)
		}
	}
	return r
}

// breakState prevents changes from being stored, as on a full disk.
func (i *instance) breakState() {
	i.t.Helper()
	if err := os.RemoveAll(i.stateDir); err != nil {
		i.t.Fatal(err)
	}
}

func (i *instance) changeTag(action Action, key string, value []byte, by string) error {
	_, err := i.Control.changeTag(action, key, value, by)
	return err
}

func (i *instance) changeValue(action Action, path string, value []byte, by string) error {
	_, err := i.Control.changeValue(action, path, value, by)
	return err
}
