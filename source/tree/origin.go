package tree

import (
	"slices"
	"strings"
	"time"
)

// OriginKind tells how a value came about.
type OriginKind uint8

const (
	Stated  OriginKind = iota // a source gives it
	Derived                   // it follows from other values
	Default                   // no source gives it, and the documented default applies
)

// An Origin tells where a value comes from.
type Origin struct {
	Kind OriginKind
	// Place of a Stated value: "web-1.toml:14", "/sys/class/dmi/id/product_name". Of a Default: a remark, may be empty.
	Place string
	// Key of a Stated value: the key in the file, "a.b". May be empty.
	Key string
	// From holds the paths or keys that a Derived value follows from.
	From []string
}

// String returns what check prints: "web-1.toml:14", "derived from a/b", "default".
func (o Origin) String() string {
	switch {
	case o.Kind == Derived:
		return "derived from " + strings.Join(o.From, ", ")
	case o.Kind == Default && o.Place != "":
		return "default: " + o.Place
	case o.Kind == Default:
		return "default"
	}
	return o.Place
}

func (o Origin) equal(p Origin) bool {
	return o.Kind == p.Kind && o.Place == p.Place && o.Key == p.Key && slices.Equal(o.From, p.From)
}

// A Value holds the bytes of one leaf or setting, and where they come from.
type Value struct {
	Bytes  []byte
	Mtime  time.Time // of the source: the file's mtime, the time of boot
	Origin Origin
}
