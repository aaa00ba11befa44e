package mountpoint

import (
	"errors"
	"testing"
	"time"
)

// TestABusyMachineIsNoHungPath: where a child is slow to start, its look may be slow as well.
func TestABusyMachineIsNoHungPath(t *testing.T) {
	for started, want := range map[time.Duration]time.Duration{
		5 * time.Millisecond: time.Second, 300 * time.Millisecond: 6 * time.Second, 10 * time.Second: startLimit,
	} {
		if got := lookLimit(started); got != want {
			t.Errorf("started in %v: %v for the look, want %v", started, got, want)
		}
	}
}

func TestOnlyAnAnswerOfTheChildIsTaken(t *testing.T) {
	if _, err := parseAnswer([]byte("PASS\nok\n"), nil); err == nil {
		t.Error("the output of another program was taken for an answer")
	}
	if _, err := parseAnswer(nil, errors.New("exit status 1")); err == nil {
		t.Error("a failed child was taken for an answer")
	}
}

func FuzzProbeAnswer(f *testing.F) {
	f.Add([]byte(probeBegins + "0\n/run"))
	f.Add([]byte(probeBegins + "2\n"))
	f.Add([]byte("PASS\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		text, err := parseAnswer(out, nil)
		if err == nil && len(text) >= len(out) {
			t.Errorf("%q gives %q", out, text)
		}
	})
}
