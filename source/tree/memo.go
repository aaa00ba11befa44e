package tree

import "maps"

// Memo returns what render makes of this place. The first call runs it, later ones get the same value:
// a place never changes, so a door may keep with it the form in which it shows it. There is one memo for
// each place, a directory having one a version, so one door alone may use it. It is safe for concurrent
// use; render may run more than once, and then one of the values is kept.
func (v View) Memo(render func(View) any) any {
	version := v.version
	if !v.node.dir {
		version = "" // leaves are the same in every version
	}
	for made := any(nil); ; {
		old := v.node.memo.Load()
		if old != nil {
			if kept, ok := (*old)[version]; ok {
				return kept
			}
		}
		if made == nil {
			made = render(v)
		}
		next := map[string]any{version: made}
		if old != nil {
			maps.Copy(next, *old)
		}
		if v.node.memo.CompareAndSwap(old, &next) {
			return made
		}
	}
}
