package overlay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"

	"github.com/imdsfs/imdsfs/source/atomicfile"
)

const (
	fileName = "overlay.json"
	maxFile  = 128 << 20 // bytes: a tree may hold 64 MiB, and JSON needs more for it
)

// The file in format 2. A version that knows only format 1 refuses to start with it and does not touch it. Otherwise it
// would apply the changes of all instances to the one that it serves, or drop them.
type file struct {
	Format    int                `json:"format"`
	Instances map[string]changes `json:"instances"` // by instance id
}

// Format 1 names no instance.
type file1 struct {
	Format int `json:"format"`
	changes
}

// Path returns the path of the overlay's file in a state directory.
func Path(stateDir string) string { return filepath.Join(stateDir, fileName) }

// Open reads the overlay of a state directory. It is empty if there is no file.
func Open(stateDir string) (*Overlay, error) {
	o := &Overlay{path: Path(stateDir), state: &state{instances: map[string]changes{}}}
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

// parse parses a file's text. Its errors contain no values.
func parse(text []byte) (*state, error) {
	var any struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &any); err != nil {
		return nil, errDamaged
	}
	s := &state{instances: map[string]changes{}}
	switch any.Format {
	case 1:
		var f file1
		if err := decode(text, &f); err != nil {
			return nil, err
		}
		c := f.changes.clone()
		s.unowned = &c
	case 2:
		var f file
		if err := decode(text, &f); err != nil {
			return nil, err
		}
		maps.Copy(s.instances, f.Instances)
	default:
		return nil, fmt.Errorf("format %d, and this version reads 1 and 2", any.Format)
	}
	return s, nil
}

var errDamaged = errors.New("not written by imdsfs, or damaged: restore it, or move it away to drop what was set at run time")

func decode(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if _, more := d.Token(); err != nil || !errors.Is(more, io.EOF) {
		return errDamaged
	}
	return nil
}

// text returns the text of the file. unowned must be nil: a draft has assigned those changes to its instance.
func (s *state) text() ([]byte, error) {
	text, err := json.MarshalIndent(file{2, s.instances}, "", "  ")
	return append(text, '\n'), err
}
