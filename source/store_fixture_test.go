package source

import (
	"context"
	"maps"
	"time"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
)

var testEnv = build.Env{Now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), LaunchTime: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}

func environment() build.Env { return testEnv }

// states is a fragment: pairs of a path and a value.
func states(pairs ...string) *build.Fragment {
	f := &build.Fragment{Leaves: map[string]tree.Value{}}
	for i := 0; i < len(pairs); i += 2 {
		f.Leaves[pairs[i]] = tree.Value{Bytes: []byte(pairs[i+1]), Mtime: testEnv.LaunchTime, Origin: tree.Origin{Place: "test.toml:1", Key: "k"}}
	}
	return f
}

// least is the least input, and more.
func least(pairs ...string) *build.Fragment {
	f := states("meta-data/instance-id", "i-0a1b2c3d4e5f67890")
	maps.Copy(f.Leaves, states(pairs...).Leaves)
	return f
}

// text is the leaf at a path below /latest; "-" if there is none.
func text(s *build.Snapshot, path string) string {
	v, ok := s.Find("/latest/" + path)
	if !ok || v.IsDir() {
		return "-"
	}
	return string(v.Bytes())
}

// A scripted source says what it is told to.
type scripted struct {
	name     string
	fragment *build.Fragment
	err      error
}

func (s *scripted) Name() string                                  { return s.name }
func (s *scripted) Load(context.Context) (*build.Fragment, error) { return s.fragment, s.err }
