package build

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/imdsfs/imdsfs/source/tree"
)

func TestMemoIsMadeOnceForEachPlace(t *testing.T) {
	s := build(t, nil, testEnv, least())
	var made atomic.Int64
	memo := func(s *Snapshot, path string) string {
		v, ok := s.Find(path)
		if !ok {
			t.Fatalf("no %s", path)
		}
		return *v.Memo(func(v tree.View) any {
			made.Add(1)
			text := path + " " + v.Version()
			return &text
		}).(*string)
	}
	for _, step := range []struct {
		path, want string
		made       int64
	}{
		{"/latest/meta-data", "/latest/meta-data latest", 1},
		{"/latest/meta-data", "/latest/meta-data latest", 1},
		{"/2009-04-04/meta-data", "/2009-04-04/meta-data 2009-04-04", 2},
		{"/latest/meta-data", "/latest/meta-data latest", 2},
		{"/latest/meta-data/instance-id", "/latest/meta-data/instance-id latest", 3},
		{"/2009-04-04/meta-data/instance-id", "/latest/meta-data/instance-id latest", 3}, // the same leaf
		{"/", "/ ", 4},
	} {
		if got := memo(s, step.path); got != step.want || made.Load() != step.made {
			t.Errorf("%s: %q after %d were made, want %q after %d", step.path, got, made.Load(), step.want, step.made)
		}
	}

	next := build(t, s, testEnv, with(least(), "meta-data/instance-type", "m5.xlarge"))
	before := made.Load()
	memo(next, "/latest/meta-data/instance-id")
	if made.Load() != before {
		t.Error("what did not change was made again")
	}
	memo(next, "/latest/meta-data")
	if memo(next, "/latest/meta-data/instance-type"); made.Load() != before+2 {
		t.Errorf("%d were made for two places that changed", made.Load()-before)
	}
}

func TestMemoIsOneForAll(t *testing.T) {
	s := build(t, nil, testEnv, least())
	var readers sync.WaitGroup
	var got [8]map[string]any
	for i := range got {
		got[i] = map[string]any{}
		readers.Go(func() {
			for _, version := range s.Versions() {
				v, _ := s.Find("/" + version + "/meta-data")
				got[i][version] = v.Memo(func(tree.View) any { return new(int) })
			}
		})
	}
	readers.Wait()
	for i := range got {
		for version, memo := range got[i] {
			if memo != got[0][version] {
				t.Errorf("%s: two readers got different memos", version)
			}
		}
	}
}
