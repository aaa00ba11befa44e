package fs

// An op is a kind of request that is counted.
type op int

const (
	opLookup op = iota
	opForget
	opGetAttr
	opOpen
	opRead
	opFlush
	opOpenDir
	opReadDir
	opReadDirPlus
	opStatFs
	opAccess
	opRefused // would change something
	opOther   // the kernel does without
	opCount
)

var opNames = [opCount]string{"LOOKUP", "FORGET", "GETATTR", "OPEN", "READ", "FLUSH", "OPENDIR", "READDIR",
	"READDIRPLUS", "STATFS", "ACCESS", "refused", "other"}

func (f *rawFS) count(o op) { f.served[o].Add(1) }

func (f *rawFS) requests() map[string]uint64 {
	out := make(map[string]uint64, opCount)
	for o, name := range opNames {
		out[name] = f.served[o].Load()
	}
	return out
}
