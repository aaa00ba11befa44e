package control

import "github.com/imdsfs/imdsfs/source"

// absent warns of unsetting something that does not exist: the name may be mistyped. The path is relative to a version.
func (c *Control) absent(action Action, path string) source.Faults {
	if action != Unset {
		return nil
	}
	if _, ok := c.Store.Snapshot().Find("/" + source.Latest + "/" + path); ok {
		return nil
	}
	hint := "it stays absent, whoever states it"
	if near := source.NearestPath(path); near != "" {
		hint = "did you mean " + near + "? " + hint
	}
	return source.Faults{{Place: "/" + source.Latest + "/" + path, Text: "there was nothing to unset", Hint: hint}}
}
