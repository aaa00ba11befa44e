// Package overlay keeps what was set and removed at run time: metadata options, tags and single
// values. It is the last source in the merge, and its file in the state directory outlives restarts
// and reboots, because hardening must not be undone by one.
//
//	o, err := overlay.Open("/var/lib/imdsfs")
//	draft := o.Draft()
//	draft.Set(overlay.Options, "http-tokens", "required", overlay.Stamp{Time: now, By: "uid 0"})
//	change, err := store.Update(o.Name(), draft.Fragment(), func(*source.Snapshot) error { return draft.Commit() })
//
// The file (overlay.json, mode 0600) is replaced as a whole: a crash leaves the old or the new one.
package overlay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/atomicfile"
)

// A Kind is what an entry changes.
type Kind string

// The kinds of entries. Names are option names, tag keys, and paths relative to a version
// ("meta-data/spot/termination-time").
const (
	Options Kind = "options"
	Tags    Kind = "tags"
	Values  Kind = "values"
)

const (
	fileName = "overlay.json"
	maxFile  = 128 << 20 // bytes: a tree may hold 64 MiB, and JSON needs more for it
)

// An Entry is one change.
type Entry struct {
	// Value is what was set; nil: it was removed, whoever else states it.
	Value []byte    `json:"value,omitempty"`
	Time  time.Time `json:"time"`
	By    string    `json:"by"`
	// Removed is explicit in the file, because an empty value is one.
	Removed bool `json:"removed,omitempty"`
}

// A Stamp says when and by whom a change was made.
type Stamp struct {
	Time time.Time
	By   string // "uid 0"
}

// state is the file.
type state struct {
	Format  int              `json:"format"` // 1
	Options map[string]Entry `json:"options"`
	Tags    map[string]Entry `json:"tags"`
	Values  map[string]Entry `json:"values"`
}

func (s *state) kind(k Kind) map[string]Entry {
	return map[Kind]map[string]Entry{Options: s.Options, Tags: s.Tags, Values: s.Values}[k]
}

func (s *state) clone() *state {
	c := &state{Format: 1, Options: map[string]Entry{}, Tags: map[string]Entry{}, Values: map[string]Entry{}}
	for _, k := range []Kind{Options, Tags, Values} {
		maps.Copy(c.kind(k), s.kind(k))
	}
	return c
}

// An Overlay is the changes of one instance. It is a [source.Source].
type Overlay struct {
	path string

	mu    sync.Mutex
	state *state
}

var _ source.Source = (*Overlay)(nil)

// Open reads the overlay of a state directory; without a file it is empty.
func Open(stateDir string) (*Overlay, error) {
	o := &Overlay{path: filepath.Join(stateDir, fileName), state: new(state).clone()}
	text, err := atomicfile.Read(o.path, maxFile)
	if errors.Is(err, os.ErrNotExist) {
		return o, nil
	}
	if err != nil {
		return nil, err
	}
	s, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.path, err)
	}
	o.state = s
	return o, nil
}

// parse reads a file's text. Its errors hold nothing of the values.
func parse(text []byte) (*state, error) {
	var s state
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(&s)
	if _, more := d.Token(); err != nil || !errors.Is(more, io.EOF) {
		return nil, errors.New("not written by imdsfs, or damaged: restore it, or move it away to forget what was set at run time")
	}
	if s.Format != 1 {
		return nil, fmt.Errorf("format %d, and this version knows 1", s.Format)
	}
	return s.clone(), nil
}

// Name is the source's name.
func (o *Overlay) Name() string { return "overlay" }

// Load returns the changes in force.
func (o *Overlay) Load(context.Context) (*source.Fragment, error) { return o.current().fragment(), nil }

// Entries are the changes of one kind by name.
func (o *Overlay) Entries(k Kind) map[string]Entry { return maps.Clone(o.current().kind(k)) }

func (o *Overlay) current() *state {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.state // replaced, never changed
}

func (s *state) fragment() *source.Fragment {
	f := &source.Fragment{
		RunTime: true,
		Options: map[string]source.Value{}, Tags: map[string]source.Value{}, Leaves: map[string]source.Value{},
	}
	for _, k := range []Kind{Options, Tags, Values} {
		into := map[Kind]map[string]source.Value{Options: f.Options, Tags: f.Tags, Values: f.Leaves}[k]
		for name, e := range s.kind(k) {
			switch {
			case !e.Removed:
				into[name] = e.value(name)
			case k == Tags:
				f.Removed = append(f.Removed, source.TagPath(name))
			case k == Values:
				f.Removed = append(f.Removed, name)
			}
		}
	}
	return f
}

func (e Entry) value(name string) source.Value {
	place := fmt.Sprintf("set at run time, %s, by %s", e.Time.UTC().Format(time.RFC3339), e.By)
	return source.Value{Bytes: e.Value, Mtime: e.Time, Origin: source.Origin{Kind: source.Stated, Place: place, Key: name}}
}

// A Draft is changes that are not in force yet. One draft at a time may be in the making.
type Draft struct {
	overlay *Overlay
	state   *state
}

// Draft starts from what is in force.
func (o *Overlay) Draft() *Draft { return &Draft{o, o.current().clone()} }

// Set gives name a value.
func (d *Draft) Set(k Kind, name string, value []byte, by Stamp) {
	d.state.kind(k)[name] = Entry{Value: value, Time: by.Time.UTC(), By: by.By}
}

// Remove takes name out of the tree, whoever states it. Options cannot be removed, only reset.
func (d *Draft) Remove(k Kind, name string, by Stamp) {
	d.state.kind(k)[name] = Entry{Removed: true, Time: by.Time.UTC(), By: by.By}
}

// Reset forgets what was set or removed: what the other sources say counts again. It reports whether
// there was anything.
func (d *Draft) Reset(k Kind, name string) bool {
	_, was := d.state.kind(k)[name]
	delete(d.state.kind(k), name)
	return was
}

// Fragment is what the draft states.
func (d *Draft) Fragment() *source.Fragment { return d.state.fragment() }

// Commit makes the draft durable, and then the overlay's.
func (d *Draft) Commit() error {
	text, err := json.MarshalIndent(d.state, "", "  ")
	if err != nil {
		return err
	}
	if len(text)+1 > maxFile {
		return fmt.Errorf("keep the change: %s would be longer than %d bytes", d.overlay.path, maxFile)
	}
	if err := atomicfile.Write(d.overlay.path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep the change: %w", err)
	}
	d.overlay.mu.Lock()
	defer d.overlay.mu.Unlock()
	d.overlay.state = d.state
	return nil
}
