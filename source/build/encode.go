package build

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"fmt"
	"time"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
)

// A savedSnapshot is the form in which one process hands a snapshot to another, of this version or of another one. You may
// add fields: gob ignores those that one side does not know. It leaves out the warnings.
type savedSnapshot struct {
	Top, Root tree.SavedNode
	Versions  []string
	Stamp     time.Time
	Instance  string
	Options   savedOptions
	Snowball  bool
	Settings  []Setting
	Rolled    map[string]savedRolling
	Refresh   time.Time
}

// savedOptions holds the fields of [ec2.Options] and the others side by side, as in every version before.
type savedOptions struct {
	HTTPEndpoint         bool
	TokensRequired       bool
	HopLimit             int
	HTTPProtocolIPv6     bool
	InstanceMetadataTags bool
	Lock                 []string
	Origins              map[string]tree.Origin
}

type savedRolling struct {
	Digest [sha256.Size]byte
	At     time.Time
}

// MarshalBinary encodes the snapshot for [ParseSnapshot]. The bytes hold secrets.
func (s *Snapshot) MarshalBinary() ([]byte, error) {
	t, o := s.Save(), s.options
	saved := savedSnapshot{
		Top: t.Top, Root: t.Root, Versions: t.Versions, Stamp: t.Stamp,
		Instance: s.instance, Snowball: s.snowball, Settings: s.settings, Rolled: map[string]savedRolling{}, Refresh: s.refresh,
		Options: savedOptions{o.HTTPEndpoint, o.TokensRequired, o.HopLimit, o.HTTPProtocolIPv6, o.InstanceMetadataTags, o.Lock, o.Origins},
	}
	for name, r := range s.rolled {
		saved.Rolled[name] = savedRolling{r.digest, r.at}
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(&saved); err != nil {
		return nil, fmt.Errorf("encode the tree: %w", err)
	}
	return b.Bytes(), nil
}

// ParseSnapshot decodes what MarshalBinary encoded, in this process or in a predecessor. The next snapshot that [Build]
// makes can share nodes with it, including their times.
func ParseSnapshot(data []byte) (*Snapshot, error) {
	var saved savedSnapshot
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&saved); err != nil {
		return nil, fmt.Errorf("decode the tree: %w", err)
	}
	// Older versions do not hand over these styles, but list the directories in the same way.
	saved.Top.Bare = topStyle.Bare
	saved.Root.Bare, saved.Root.Always = versionStyle.Bare, versionStyle.Always
	t, err := (&tree.Saved{Top: saved.Top, Root: saved.Root, Versions: saved.Versions, Stamp: saved.Stamp}).Tree()
	if err != nil {
		return nil, err
	}
	o := saved.Options
	s := &Snapshot{
		Tree: t, instance: saved.Instance, snowball: saved.Snowball, settings: saved.Settings, rolled: map[string]rolling{}, refresh: saved.Refresh,
		options: Options{ec2.Options{
			HTTPEndpoint: o.HTTPEndpoint, TokensRequired: o.TokensRequired, HopLimit: o.HopLimit,
			HTTPProtocolIPv6: o.HTTPProtocolIPv6, InstanceMetadataTags: o.InstanceMetadataTags,
		}, o.Lock, o.Origins},
	}
	if s.options.Origins == nil {
		s.options.Origins = map[string]tree.Origin{}
	}
	for name, r := range saved.Rolled {
		s.rolled[name] = rolling{r.Digest, r.At}
	}
	return s, nil
}
