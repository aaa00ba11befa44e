package fs

import (
	"testing"

	"github.com/imdsfs/imdsfs/source"
)

// The kernel may send a FORGET of what a predecessor handed out, and it is read after the kernel has looked the inode up
// again. The successor must not count it against that lookup.
func TestALateForgetOfAPredecessorTakesNothingAway(t *testing.T) {
	const id = 7
	for name, between := range map[string]func(t *table){
		"while the kernel is asked": func(t *table) {
			t.inDoubt()
			t.enter(id, "/file", source.View{}, false)
			t.dropIfUnknown(id)
		},
		"before the answer of the kernel comes": func(t *table) {
			t.inDoubt()
			t.enter(id, "/file", source.View{}, false)
			t.forget(id, 1)
			t.enter(id, "/file", source.View{}, false)
			t.forget(id, 1)
			t.dropIfUnknown(id)
		},
		"after the kernel was asked": func(t *table) {
			t.inDoubt()
			t.dropIfUnknown(id)
			t.enter(id, "/file", source.View{}, false)
		},
		"before the kernel is asked": func(t *table) {
			t.enter(id, "/file", source.View{}, false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			table := newTable()
			table.inherit(id, "/file", source.View{}, false)
			between(table)
			table.forget(id, 1) // the predecessor's
			if _, _, _, ok := table.place(id); !ok {
				t.Fatal("the kernel knows an inode that is gone")
			}
			if len(table.inDoubt()) == 0 {
				t.Error("the kernel is not asked whether it still knows it")
			}
			// And it does not stay for ever.
			table.forget(id, 1)
			table.inDoubt()
			table.dropIfUnknown(id)
			if _, _, _, ok := table.place(id); ok {
				t.Error("the kernel does not know it, and it is still there")
			}
		})
	}
}
