package tree

import "maps"

// Memo returns the value of render for this place. The first call runs render, and later calls return the same value. A
// place never changes, so a door can keep its own form of the place here. A leaf has one memo, and a directory one for each
// version; so only one door may use Memo. It is safe for concurrent use: render may run more than once, but only one value
// is kept.
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
