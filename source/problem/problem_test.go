package problem

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

func TestTheOutermostHintAndKindCount(t *testing.T) {
	inner := Invalid("mend the file", fs.ErrNotExist)
	for _, c := range []struct {
		name string
		err  error
		kind Kind
		hint string
	}{
		{"plain", errors.New("no"), KindFailed, ""},
		{"itself", inner, KindInvalid, "mend the file"},
		{"wrapped", fmt.Errorf("load: %w", inner), KindInvalid, "mend the file"},
		{"around another", No("ask another", inner), KindNo, "ask another"},
		{"usage", Usage("see --help", inner), KindUsage, "see --help"},
		{"failed", Failed("", inner), KindFailed, ""},
		{"joined", errors.Join(errors.New("no"), inner), KindInvalid, "mend the file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if kind, hint := KindOf(c.err), Hint(c.err); kind != c.kind || hint != c.hint {
				t.Errorf("kind %d, hint %q; want %d, %q", kind, hint, c.kind, c.hint)
			}
		})
	}
	if !errors.Is(No("", inner), fs.ErrNotExist) {
		t.Error("what is wrapped cannot be found")
	}
	if text := inner.Error(); text != fs.ErrNotExist.Error() {
		t.Errorf("the message is %q: the hint belongs on a line of its own", text)
	}
}
