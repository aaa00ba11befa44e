package tree

import (
	"slices"
	"strings"
	"time"
)

// OriginKind tells how a value came to be.
type OriginKind uint8

const (
	Stated  OriginKind = iota // a source says so
	Derived                   // it follows from other values
	Default                   // nobody says; the documented default
)

// An Origin is the provenance of a value.
type Origin struct {
	Kind OriginKind
	// Place, for Stated: "web-1.toml:14", "/sys/class/dmi/id/product_name"; for Default: a
	// remark, may be empty.
	Place string
	// Key, for Stated: the key in the file, "meta-data.instance-id". May be empty.
	Key string
	// From, for Derived: the paths or keys that it follows from.
	From []string
}

// String is what check prints: "web-1.toml:14", "derived from meta-data/mac", "default".
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

// A Value is the bytes of one leaf or setting, and where they come from.
type Value struct {
	Bytes  []byte
	Mtime  time.Time // of what stated it: the file's, the boot's
	Origin Origin
}
