package daemon

import "testing"

func TestDescriptorsAreDivided(t *testing.T) {
	for _, c := range []struct {
		limit      uint64
		imds, port int
	}{
		{1 << 30, 4096, 64}, {1 << 20, 4096, 64}, {8192, 4096, 64}, {4096, 3840, 64}, {1024, 768, 64}, {512, 256, 64}, {256, 96, 32}, {128, 16, 16}, {16, 1, 2}, {0, 1, 1},
	} {
		if got := divideDescriptors(c.limit); got != (descriptors{c.imds, c.port}) {
			t.Errorf("%d: %+v, want %+v", c.limit, got, c)
		}
	}
}
