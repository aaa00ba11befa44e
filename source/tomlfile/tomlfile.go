// Package tomlfile reads an instance file: the TOML text in which a user describes the metadata of one instance.
//
//	file ──▶ lineindex.go: the line of each key ─┐
//	     ──▶ parser ──▶ values ──────────────────┴─▶ decoder ──▶ File: build.Fragment, Server, the files to watch
//	                                                   └──▶ problem.Faults, all at once
//
// The tables of the file mirror the paths of the tree:
//
//	[meta-data], [dynamic]      any path; a table is a directory             metadata.go
//	user-data and its variants  above the first table header                 instance.go
//	[instance]                  facts that are not leaves                    instance.go
//	[public-keys], [tags]       their form in the file is not the tree's     instance.go
//	[metadata-options]          EC2's options                                instance.go
//	[credentials.NAME]          the role; [identity-credentials] likewise    credentials.go
//	[[access]]                  owner, group and mode on the FUSE door       access.go
//	[server]                    the daemon                                   server.go
//
// Each fault has file, line and key. The only values of the file that a fault can show are options, addresses, and paths
// that exist and are refused: so no secret gets into it. For the same reason the parser's messages are not passed on
// (syntax.go).
//
// Only files.go reads what a file refers to (user-data-file, KEY-file, KEY-env). The daemon may have more rights than the
// author of the file: reader.go decides what the author may have read.
package tomlfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/safepath"
	"github.com/imdsfs/imdsfs/source/watch"
)

const maxFileBytes = 8 << 20 // of an instance file

// A File holds what an instance file says.
type File struct {
	Fragment *build.Fragment
	Server   Server
	// Refers holds the absolute paths of the file itself and of every file that it names, sorted. A change of any of them
	// may change the Fragment.
	Refers []string
	// Environment holds the environment variables that the file names, sorted.
	Environment []string

	marks watch.Marks // of Refers, each taken before the file was read
}

// Load reads the instance file at path. If the file can be read but not used, the error is [problem.Faults], sorted by
// line. Place is "PATH:LINE" with path as given, or only "PATH" if the way to the file is refused. Unless the file is not
// TOML at all, Load returns the values that it could decode together with the faults. accept, if not nil, checks [server].
func Load(path string, accept Accept) (*File, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("instance file %s: %w", path, err)
	}
	marks := watch.Marks{}
	marks.Add(abs)
	data, st, err := reader{}.readFile(abs, maxFileBytes)
	var tooLarge sizeError
	var refused *safepath.Error
	switch {
	case errors.As(err, &tooLarge):
		return nil, problem.Faults{{Place: path + ":1", Text: fmt.Sprintf("the file has %d bytes: %d are allowed", int64(tooLarge), maxFileBytes)}}
	case errors.As(err, &refused):
		return nil, problem.Faults{{Place: path, Text: refused.Error(), Hint: refused.Hint}}
	case err != nil:
		return nil, fmt.Errorf("instance file %s: %w", path, err)
	case len(bytes.TrimSpace(data)) == 0:
		// An editor that writes in place empties the file first. The running snapshot must stay.
		return nil, problem.Faults{{Place: path + ":1", Text: "the file is empty", Hint: "state at least an instance-id under [meta-data]"}}
	}
	file, err := readerFor(path, st).decode(path, string(data), mtimeOf(st), marks)
	if file == nil || accept == nil {
		return file, err
	}
	var faults problem.Faults
	errors.As(err, &faults)
	faults = append(faults, accept(&file.Server)...)
	faults.Sort()
	return file, faults.Err()
}

// decode is Load for a text that has been read and marked already.
func (r reader) decode(path, text string, mtime time.Time, marks watch.Marks) (*File, error) {
	d := &decoder{
		path:   path,
		reader: r,
		mtime:  mtime,
		index:  indexLines(text),
		file:   &File{Fragment: &build.Fragment{}, Server: Server{Places: map[string]string{}}, marks: marks},
	}
	top, ok := d.parse(text)
	if !ok {
		return nil, byLine(d.faults)
	}
	if abs, err := filepath.Abs(path); err == nil {
		d.file.Refers = append(d.file.Refers, abs)
	}
	d.document(top)
	d.file.Fragment.Warnings = byLine(d.warnings)
	slices.Sort(d.file.Refers)
	d.file.Refers = slices.Compact(d.file.Refers)
	slices.Sort(d.file.Environment)
	d.file.Environment = slices.Compact(d.file.Environment)
	return d.file, byLine(d.faults).Err()
}

// refer records that the file refers to path, marks the file there, and returns the absolute path.
func (d *decoder) refer(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	d.file.Refers = append(d.file.Refers, path)
	d.file.marks.Add(path)
	return path
}

// A Source is an instance file as a source of metadata.
type Source struct {
	path   string
	accept Accept

	mu    sync.Mutex
	read  *result     // by Read, for the next Load; nil otherwise
	last  *File       // nil before the first that was any TOML
	marks watch.Marks // of the last attempt, each taken before it
	watch *watch.Files
}

// A result is what an attempt to read the file has come to.
type result struct {
	file  *File // nil if the file is no TOML at all, or cannot be read
	marks watch.Marks
	err   error
}

var _ source.Watcher = (*Source)(nil)

func init() {
	source.Register(source.Kind{Name: "file", Order: 2, New: func(s source.Setup) source.Source { return s.File }})
}

// New returns the source that reads the instance file at path. accept is as in [Load].
func New(path string, accept Accept) *Source { return &Source{path: path, accept: accept} }

// Name returns "file", the name of the source in [server] sources.
func (s *Source) Name() string { return "file" }

// Read reads the file as the function [Load] does. The next Load of the source uses what Read has read: a daemon needs
// [server] first, and the fragment must come from the same text.
func (s *Source) Read() (*File, error) {
	r := s.attempt()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read = r
	return r.file, r.err
}

// attempt reads the file. If that fails altogether, the files that it named the last time still count.
func (s *Source) attempt() *result {
	marks := watch.Marks{}
	if abs, err := filepath.Abs(s.path); err == nil {
		marks.Add(abs)
	}
	s.mu.Lock()
	if s.last != nil {
		for _, path := range s.last.Refers {
			marks.Add(path)
		}
	}
	s.mu.Unlock()
	f, err := Load(s.path, s.accept)
	if f != nil {
		marks = f.marks
	}
	return &result{f, marks, err}
}

// Load reads the file again; see the function [Load].
func (s *Source) Load(ctx context.Context) (*build.Fragment, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	r := s.read
	s.read = nil
	s.mu.Unlock()
	if r == nil {
		r = s.attempt()
	}
	s.mu.Lock()
	if s.marks = r.marks; r.file != nil {
		s.last = r.file
	}
	watching := s.watch
	s.mu.Unlock()
	if watching != nil {
		watching.Follow(r.marks)
	}
	if r.file == nil {
		return nil, r.err
	}
	return r.file.Fragment, r.err
}

// Watch implements [source.Watcher]. It notices changes of the file and of the files that it names, also those since the
// last Load has read them.
func (s *Source) Watch(ctx context.Context, changed func(), warn func(error)) error {
	w, err := watch.New(ctx, changed, warn)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.watch = w
	marks := s.marks
	if abs, err := filepath.Abs(s.path); err == nil && marks == nil {
		marks = watch.Marks{}
		marks.Add(abs)
	}
	s.mu.Unlock()
	w.Follow(marks)
	return nil
}

// Server returns [server] as the last Load read it, nil before the first Load.
func (s *Source) Server() *Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		return nil
	}
	return &s.last.Server
}
