package control

import (
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

// absent warns of unsetting something that does not exist: the name may be mistyped. The path is relative to a version.
func (c *Control) absent(action Action, path string) problem.Faults {
	if action != Unset {
		return nil
	}
	if _, ok := c.Store.Snapshot().Find("/" + tree.Latest + "/" + path); ok {
		return nil
	}
	hint := "it stays absent, whoever states it"
	if near := ec2.NearestPath(path); near != "" {
		hint = "did you mean " + near + "? " + hint
	}
	return problem.Faults{{Place: "/" + tree.Latest + "/" + path, Text: "there was nothing to unset", Hint: hint}}
}
