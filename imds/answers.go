package imds

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
)

// Answers are a snapshot with the answers that were made of it: a place is rendered for its first request and kept for the
// next ones, as long as the snapshot is served. It is safe for concurrent use. Make one with [NewAnswers].
//
// Requests find what is rendered in a map that does not change, without a lock. What is missing there they find or put in
// a second one, under a lock. When that has happened as often as there are entries, a copy of the second map becomes the
// first. So the copies cost constant time for each place. (Measured: sync.Map takes 100 ns more for each request.)
type Answers struct {
	snapshot *build.Snapshot
	rendered atomic.Pointer[entities]

	mu     sync.Mutex
	all    entities
	missed int // look-ups in all since rendered was copied from it
}

type entities map[tree.Key]*entity

// An entity is a body with the headers that depend on it alone.
type entity struct {
	headers string // lines, each with its line end
	body    []byte
}

// NewAnswers renders nothing yet.
func NewAnswers(snapshot *build.Snapshot) *Answers {
	t := &Answers{snapshot: snapshot, all: entities{}}
	t.rendered.Store(&entities{})
	return t
}

// entity is a place of the snapshot as it is answered.
func (t *Answers) entity(v tree.View) *entity {
	key := v.Key()
	if e, ok := (*t.rendered.Load())[key]; ok {
		return e
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.all[key]
	if !ok {
		e = newEntity(v)
		t.all[key] = e
	}
	if t.missed++; t.missed >= len(t.all) {
		copied := maps.Clone(t.all)
		t.rendered.Store(&copied)
		t.missed = 0
	}
	return e
}

func newEntity(v tree.View) *entity {
	body := v.Bytes()
	if v.IsDir() {
		body = v.Listing()
	}
	return &entity{
		"Content-Type: " + v.ContentType() + "\r\nAccept-Ranges: none\r\nLast-Modified: " + httpDate(v.ModTime()) + "\r\n" + contentLength(len(body)),
		body,
	}
}
