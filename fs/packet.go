package fs

import (
	"encoding/binary"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// packetSize bounds what goes through the child's socket at once. To the child: a number of 8 bytes, then batches, each after
// its length of 4 bytes. From the child: that number, the batch in the packet (4 bytes), and the kernel's answers.
const packetSize = 32 << 10

// A packet is batches of notifications that go to the child at once.
type packet struct {
	bytes []byte // with room for the number
	// done is called for each batch; nil when it was.
	done []func([]fuse.Status)
}

// pack puts batches into as few packets as possible. A batch that is too long is sent in parts.
func pack(batches [][]notification, done func(int, []fuse.Status)) (packets []*packet) {
	var p *packet
	begin := func() {
		p = &packet{bytes: make([]byte, 8, packetSize)}
		packets = append(packets, p)
	}
	begin()
	for i, batch := range batches {
		var mu sync.Mutex
		var answers []fuse.Status
		parts := 0
		partDone := func(a []fuse.Status) {
			mu.Lock()
			answers = append(answers, a...)
			parts--
			left := parts
			mu.Unlock()
			if left == 0 {
				done(i, answers)
			}
		}
		for first := true; first || len(batch) > 0; first = false {
			if len(p.bytes) > packetSize/2 {
				begin()
			}
			at := len(p.bytes)
			p.bytes = append(p.bytes, 0, 0, 0, 0)
			for len(batch) > 0 && len(p.bytes) < packetSize-1024 {
				p.bytes = batch[0].encode(p.bytes)
				batch = batch[1:]
			}
			binary.NativeEndian.PutUint32(p.bytes[at:], uint32(len(p.bytes)-at-4))
			p.done = append(p.done, partDone)
			parts++
		}
	}
	return packets
}

// splitBatches takes the batches of a packet apart.
func splitBatches(packet []byte) (batches [][]byte) {
	for len(packet) >= 4 {
		size := int(binary.NativeEndian.Uint32(packet))
		packet = packet[4:]
		if size > len(packet) {
			break
		}
		batches = append(batches, packet[:size])
		packet = packet[size:]
	}
	return batches
}
