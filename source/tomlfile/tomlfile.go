// Package tomlfile reads an instance file: the TOML text in which a user says what the metadata of
// one instance is. The tables of the file mirror the paths of the tree:
//
//	[meta-data], [dynamic]      any path; a table is a directory            metadata.go
//	user-data and its variants  before the first table header               instance.go
//	[instance]                  what no path says by itself                 instance.go
//	[public-keys], [tags]       their form in the tree is not the file's    instance.go
//	[metadata-options]          EC2's options                               instance.go
//	[credentials.NAME]          the role; [identity-credentials] likewise   credentials.go
//	[[access]]                  owner, group and mode on the FUSE door      access.go
//	[server]                    the daemon                                  server.go
//
// [Load] reports every fault of a file at once, each with file, line and key. A fault holds no
// value of the file but options, addresses and paths that exist and are refused, so that no secret can
// get into it; for the same reason the parser's own messages are not passed on (syntax.go). The parser
// gives no positions of keys: lineindex.go finds them.
//
// What a file refers to (user-data-file, KEY-file, KEY-env) is read through files.go alone. The daemon may be allowed
// more than who wrote the file: reader.go says what is read for whom.
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

// A File is what an instance file says.
type File struct {
	Fragment *build.Fragment
	Server   Server
	// Refers are the absolute paths of the file itself and of every file it names: a change of
	// any of them may change the Fragment. Sorted.
	Refers []string
	// Environment are the environment variables that it names. Sorted.
	Environment []string

	marks watch.Marks // of Refers, each from before it was read
}

// Load reads the instance file at path. If the file can be read but not used, the error is
// [problem.Faults], sorted by line; Place is "PATH:LINE" with path as given, without a line if the way to the file is
// refused. Unless the file is no TOML
// at all, what could be made out of it comes with the faults. accept, if it is not nil, decides about [server].
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
		// An editor that writes in place empties the file first: what is served has to stay.
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

// decode is Load for a text that has been read already, and marked.
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

// refer notes a path as one that the file refers to, marks what is there, and returns it as an absolute one.
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
	read  *result // by Read, for the next Load; nil otherwise
	last  *File   // nil before the first that was any TOML
	watch *watch.Files
}

type result struct {
	file *File
	err  error
}

var _ source.Watcher = (*Source)(nil)

func init() {
	source.Register(source.Kind{Name: "file", Order: 2, New: func(s source.Setup) source.Source { return s.File }})
}

// New returns the source that reads the instance file at path; accept is as for the function [Load].
func New(path string, accept Accept) *Source { return &Source{path: path, accept: accept} }

// Name is the source's name in [server] sources.
func (s *Source) Name() string { return "file" }

// Read reads the file as the function [Load] does. The next Load of the source takes what Read has read: a daemon needs
// [server] first, and the fragment has to be of the same text.
func (s *Source) Read() (*File, error) {
	f, err := Load(s.path, s.accept)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read = &result{f, err}
	return f, err
}

// Load reads the file anew; see the function [Load].
func (s *Source) Load(ctx context.Context) (*build.Fragment, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	r := s.read
	s.read = nil
	s.mu.Unlock()
	if r == nil {
		f, err := Load(s.path, s.accept)
		r = &result{f, err}
	}
	if r.file == nil {
		return nil, r.err // what it referred to last time still counts
	}
	s.mu.Lock()
	s.last = r.file
	watching := s.watch
	s.mu.Unlock()
	if watching != nil {
		watching.Follow(ctx, r.file.marks)
	}
	return r.file.Fragment, r.err
}

// Watch implements [source.Watcher]: it notices changes of the file and of those that it refers to.
func (s *Source) Watch(ctx context.Context, changed func(), warn func(error)) error {
	w, err := watch.New(ctx, changed, warn)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.watch = w
	marks := watch.Marks{}
	if s.last != nil {
		marks = s.last.marks
	} else if abs, err := filepath.Abs(s.path); err == nil {
		marks.Add(abs)
	}
	s.mu.Unlock()
	w.Follow(ctx, marks)
	return nil
}

// Server is what [server] said to the last Load, nil before the first.
func (s *Source) Server() *Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		return nil
	}
	return &s.last.Server
}
