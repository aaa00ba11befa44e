package fs

import (
	"slices"

	"github.com/imdsfs/imdsfs/fs/fault"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
)

// A Config says where to mount.
type Config struct {
	// Dir is the mount point, an empty directory. If it is missing, Mount makes its last component, and Unmount removes it.
	Dir string
	// Source is what the list of mounts shows as mounted there; empty: "imdsfs".
	Source string
	// RuntimeDir exists and belongs to the daemon. It holds the inode key and, if the daemon mounts by itself, the claims of
	// mount points.
	RuntimeDir string
	// Warn is told, a sentence at a time, what an administrator should know. The text holds no value of the tree. Warn may
	// be called from any goroutine, and may be nil.
	Warn func(text string)
	// Clock tells when credentials expire; nil is the machine's.
	Clock clock.Clock
	// Keeper, if not nil, holds all the time what a successor needs to go on with the mount, so that the mount outlives a
	// kill of this process.
	Keeper Keeper
	// Predecessor, if not nil, is whose mount to go on with. If that is not possible, the mount is ended and made afresh, and
	// Warn is told why.
	Predecessor *Predecessor
}

// Mount shows s on the directory. It replaces a dead mount of ours there. The error is a [problem.Error] that wraps one of
// the errors of package mountpoint if the directory cannot be mounted on.
//
// As root the mount is open to every user and container, as far as owner, group and mode allow. An ordinary user's mount
// goes through fusermount3, and that user alone can read it.
func Mount(cfg Config, s *build.Snapshot) (*Door, error) {
	if cfg.Warn == nil {
		cfg.Warn = func(string) {}
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System()
	}
	k, err := loadKey(cfg.RuntimeDir)
	if err != nil {
		return nil, err
	}
	var d *Door
	if cfg.Predecessor != nil {
		d, err = mountInherited(&cfg, k, s)
	} else {
		d, err = mountFresh(&cfg, k, s)
	}
	if err != nil {
		return nil, err
	}
	if d.handles {
		d.warn(handlesOpen)
	}
	fault.At("mount answered")
	go d.publisher.run()
	go d.await()
	return d, nil
}

// assemble makes the parts that work on the device.
func (d *Door) assemble(cfg *Config) {
	m := childMount{d.point.Dir(), d.number, cfg.Keeper != nil}
	d.server = newServer(d.fs, d.device, d.warn)
	d.notifier = newNotifier(d.device, m, d.warn)
	d.publisher = newPublisher(d.fs, d.notifier, d.warn)
	d.publisher.recorder.keeper = cfg.Keeper
}

// discard undoes assemble, for a mount that does not come about.
func (d *Door) discard() {
	if d.server != nil {
		d.server.close()
	}
}

// answerInit answers the kernel's first request. What a successor needs is kept before that.
func (d *Door) answerInit(s *build.Snapshot) error {
	return d.server.begin(func(init []byte) error {
		d.init = slices.Clone(init)
		d.handles = parseInit(init).Flags64()&noFileHandles == 0
		fault.At("first request read")
		return d.keepTree(s, nil)
	})
}
