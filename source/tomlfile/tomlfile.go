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
	"time"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/safepath"
)

const maxFileBytes = 8 << 20 // of an instance file

// A File is what an instance file says.
type File struct {
	Fragment *source.Fragment
	Server   Server
	// Refers are the absolute paths of the file itself and of every file it names: a change of
	// any of them may change the Fragment. Sorted.
	Refers []string
	// Environment are the environment variables that it names. Sorted.
	Environment []string
}

// Load reads the instance file at path. If the file can be read but not used, the error is
// [source.Faults], sorted by line; Place is "PATH:LINE" with path as given, without a line if the way to the file is
// refused. Unless the file is no TOML
// at all, what could be made out of it comes with the faults. accept, if it is not nil, decides about [server].
func Load(path string, accept Accept) (*File, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("instance file %s: %w", path, err)
	}
	data, st, err := reader{}.readFile(abs, maxFileBytes)
	var tooLarge sizeError
	var refused *safepath.Error
	switch {
	case errors.As(err, &tooLarge):
		return nil, source.Faults{{Place: path + ":1", Text: fmt.Sprintf("the file has %d bytes: %d are allowed", int64(tooLarge), maxFileBytes)}}
	case errors.As(err, &refused):
		return nil, source.Faults{{Place: path, Text: refused.Error(), Hint: refused.Hint}}
	case err != nil:
		return nil, fmt.Errorf("instance file %s: %w", path, err)
	case len(bytes.TrimSpace(data)) == 0:
		// An editor that writes in place empties the file first: what is served has to stay.
		return nil, source.Faults{{Place: path + ":1", Text: "the file is empty", Hint: "state at least an instance-id under [meta-data]"}}
	}
	file, err := readerFor(path, st).decode(path, string(data), mtimeOf(st))
	if file == nil || accept == nil {
		return file, err
	}
	var faults source.Faults
	errors.As(err, &faults)
	faults = append(faults, accept(&file.Server)...)
	faults.Sort()
	return file, faults.Err()
}

// decode is Load for a text that has been read already.
func (r reader) decode(path, text string, mtime time.Time) (*File, error) {
	d := &decoder{
		path:   path,
		reader: r,
		mtime:  mtime,
		index:  indexLines(text),
		file:   &File{Fragment: &source.Fragment{}, Server: Server{Places: map[string]string{}}},
	}
	top, ok := d.parse(text)
	if !ok {
		return nil, byLine(d.faults)
	}
	d.refer(path)
	d.document(top)
	d.file.Fragment.Warnings = byLine(d.warnings)
	slices.Sort(d.file.Refers)
	d.file.Refers = slices.Compact(d.file.Refers)
	slices.Sort(d.file.Environment)
	d.file.Environment = slices.Compact(d.file.Environment)
	return d.file, byLine(d.faults).Err()
}

// refer notes a path as one that the file refers to, and returns it as an absolute one.
func (d *decoder) refer(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	d.file.Refers = append(d.file.Refers, path)
	return path
}

// A Source is an instance file as a source of metadata. Load may not be called concurrently.
type Source struct {
	path   string
	accept Accept
	last   *File // nil before the first that was any TOML
}

var _ source.Source = (*Source)(nil)

// New returns the source that reads the instance file at path; accept is as for the function [Load].
func New(path string, accept Accept) *Source { return &Source{path: path, accept: accept} }

// Name is the source's name in [server] sources.
func (s *Source) Name() string { return "file" }

// Load reads the file anew; see the function [Load].
func (s *Source) Load(ctx context.Context) (*source.Fragment, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := Load(s.path, s.accept)
	if f == nil {
		return nil, err // what it referred to last time still counts
	}
	s.last = f
	return f.Fragment, err
}

// Refers are the absolute paths of the files that the last Load read; see [File].
func (s *Source) Refers() []string {
	if s.last != nil {
		return s.last.Refers
	}
	abs, err := filepath.Abs(s.path)
	if err != nil {
		return nil
	}
	return []string{abs}
}

// Server is what [server] said to the last Load, nil before the first.
func (s *Source) Server() *Server {
	if s.last == nil {
		return nil
	}
	return &s.last.Server
}
