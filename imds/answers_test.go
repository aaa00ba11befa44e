package imds

import (
	"sync"
	"testing"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
)

// places are all places of a snapshot, in every version.
func places(s *build.Snapshot) []tree.View {
	all := []tree.View{s.Root()}
	for _, v := range s.Root().Walk() {
		all = append(all, v)
	}
	return all
}

func TestAPlaceIsRenderedOnce(t *testing.T) {
	s := snapshot(t, fixture(), nil)
	answers := NewAnswers(s)
	first, at := map[tree.Key]*entity{}, map[tree.Key]tree.View{}
	for range 3 {
		for _, v := range places(s) {
			e, key := answers.entity(v), v.Key()
			if first[key] == nil {
				first[key], at[key] = e, v
			}
			if e != first[key] {
				t.Fatalf("%q is rendered again", e.body)
			}
		}
	}
	for key, e := range first {
		v := at[key]
		want := v.Bytes()
		if v.IsDir() {
			want = v.Listing()
		}
		if string(e.body) != string(want) {
			t.Errorf("rendered %q, want %q", e.body, want)
		}
	}
	if n := len(*answers.rendered.Load()); n != len(first) {
		t.Errorf("%d of %d places are found without a lock after three rounds", n, len(first))
	}
}

func TestAllGetTheSameRendering(t *testing.T) {
	s := snapshot(t, fixture(), nil)
	answers, all := NewAnswers(s), places(s)
	var readers sync.WaitGroup
	var got [8][]*entity
	for i := range got {
		readers.Go(func() {
			for _, v := range all {
				got[i] = append(got[i], answers.entity(v))
			}
		})
	}
	readers.Wait()
	for i := range got {
		for j, e := range got[i] {
			if e != got[0][j] {
				t.Fatalf("two readers got different renderings of %q", e.body)
			}
		}
	}
}
