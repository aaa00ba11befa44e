package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/overlay"
)

// changeText names a change made at run time, never its value: "option http-tokens, set 2026-03-01T12:00:00Z by uid 0".
func changeText(c control.Changed) string {
	return fmt.Sprintf("%s %s, %s %s by %s", strings.TrimSuffix(string(c.Kind), "s"), printable(c.Name), daemon.ActionOf(c), c.Time.UTC().Format(time.RFC3339), printable(c.By))
}

// changesText is how many changes there are: "1 change", "2 changes".
func changesText(n int) string {
	if n == 1 {
		return "1 change"
	}
	return fmt.Sprintf("%d changes", n)
}

// instanceText names an instance by its id.
func instanceText(id string) string {
	if id == "" {
		return "an instance without an id"
	}
	return printable(id)
}

// printChanges prints what imdsfs serve would apply, of the changes o that are kept in a state directory, to the
// instance with this id. err is why they could not be read.
func printChanges(w, stderr io.Writer, o *overlay.Overlay, err error, stateDir, id string) error {
	if err != nil {
		return say(stderr, "warning", fmt.Sprintf("changes made at run time are not shown: %v", err))
	}
	list := control.ChangesOf(o, id)
	if len(list.Changes)+len(list.Others) == 0 {
		return nil
	}
	fmt.Fprintf(w, "changes made at run time, in %s:\n", printable(overlay.Path(stateDir)))
	for _, c := range list.Changes {
		fmt.Fprintf(w, "  %s\n", changeText(c))
	}
	for _, other := range list.Others {
		if _, err := fmt.Fprintf(w, "  %s for %s, not in force here\n", changesText(other.Changes), instanceText(other.Instance)); err != nil {
			return err
		}
	}
	return nil
}
