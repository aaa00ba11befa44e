package control

// What a path of the mount names.
const (
	KindFile      = "file"
	KindDirectory = "directory"
	KindNone      = "none" // nothing
)

type paths struct {
	Paths []string `json:"paths"` // "/latest/meta-data/mac"
}

type kinds struct {
	Kinds []string `json:"kinds"` // of each path, in the same order
}

// kinds says what each path names in the tree that is served.
func (c *Control) kinds(paths []string) []string {
	kinds := make([]string, len(paths))
	tree := c.Store.Snapshot()
	for i, path := range paths {
		switch v, ok := tree.Find(path); {
		case !ok:
			kinds[i] = KindNone
		case v.IsDir():
			kinds[i] = KindDirectory
		default:
			kinds[i] = KindFile
		}
	}
	return kinds
}
