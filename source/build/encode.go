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

// A savedSnapshot is the form in which a snapshot is handed to another process, of this version or of another. Fields
// may be added: gob leaves out what one side does not know. Warnings are not in it.
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

// savedOptions has the fields of [ec2.Options] side by side with the others, as every version has had them.
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

// MarshalBinary turns the snapshot into bytes for [ParseSnapshot]. They hold secrets.
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

// ParseSnapshot reads what MarshalBinary made, in this process or in a predecessor. A snapshot that
// [Build] makes after it shares with it what is the same, times included.
func ParseSnapshot(data []byte) (*Snapshot, error) {
	var saved savedSnapshot
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&saved); err != nil {
		return nil, fmt.Errorf("decode the tree: %w", err)
	}
	// Versions before these styles were fields listed so too.
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
