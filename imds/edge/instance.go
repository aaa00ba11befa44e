package edge

import (
	"net"
	"sync/atomic"

	"github.com/imdsfs/imdsfs/imds"
	"github.com/imdsfs/imdsfs/imds/token"
	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
)

// Instances tells which instance a connection is about.
type Instances interface {
	// Of is asked once for each connection, when it has been accepted and its peer is allowed. The next one waits for the
	// answer, so it must come from memory. Connections ask concurrently.
	Of(nc net.Conn) *Instance
}

// An Instance is one described machine: what is answered about it, and its session tokens. It is also the [Instances] of
// a server that knows no other.
type Instance struct {
	tokens  *token.Authority
	answers atomic.Pointer[imds.Answers]
}

var (
	_ source.Door = (*Instance)(nil)
	_ Instances   = (*Instance)(nil)
)

// NewInstance returns an instance about which every answer is 503 until the first Publish.
func NewInstance(tokens *token.Authority) *Instance { return &Instance{tokens: tokens} }

// Publish implements [source.Door]: when it returns, every request whose headers have not been read completely is answered
// from next.
func (i *Instance) Publish(next *build.Snapshot) { i.answers.Store(imds.NewAnswers(next)) }

// Of implements [Instances]: every connection is about this instance.
func (i *Instance) Of(net.Conn) *Instance { return i }
