package edge

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// follow is the machine's own addresses.
func follow(t testing.TB) *Addresses {
	t.Helper()
	a := FollowAddresses(func(err error) { t.Error(err) })
	t.Cleanup(a.Close)
	return a
}

func TestTheLoopbackIsAmongTheAddresses(t *testing.T) {
	at := follow(t).now.Load()
	if !at.own[netip.MustParseAddr("127.0.0.1")] || !at.inNetworkOf("lo", netip.MustParseAddr("127.3.2.1")) || at.names[1] != "lo" {
		t.Errorf("127.0.0.1/8 on lo is not in %v %v %v", at.own, at.networks, at.names)
	}
}

// inNetns moves the rest of the test into a new network namespace with lo and a pair of links that are up. The thread ends
// with the test.
func inNetns(t *testing.T) (near, far netlink.Link) {
	t.Helper()
	kit.Require(t, os.Getuid() == 0, "root, for a network namespace")
	runtime.LockOSThread() // and never back: the namespace goes with the thread
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("1"), 0o644))
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "near"}, PeerName: "far"}))
	for name, at := range map[string]*netlink.Link{"near": &near, "far": &far} {
		*at, err = netlink.LinkByName(name)
		must(t, err)
		must(t, netlink.LinkSetUp(*at))
	}
	return near, far
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func address(t testing.TB, text string) *netlink.Addr {
	t.Helper()
	a, err := netlink.ParseAddr(text)
	must(t, err)
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func (a *Addresses) isLocal(peer string) bool { return a.now.Load().isLocal(netip.MustParseAddr(peer)) }

func TestAddressesAreFollowed(t *testing.T) {
	near, far := inNetns(t)
	must(t, netlink.AddrAdd(near, address(t, "192.0.2.1/24")))
	a := follow(t)
	if !a.isLocal("192.0.2.1") {
		t.Fatal("what was there at the start is not known")
	}
	local := func(what, peer string, want bool) {
		t.Helper()
		kit.Eventually(t, what, func() bool { return a.isLocal(peer) == want })
	}
	inNetwork := func(what, iface, peer string, want bool) {
		t.Helper()
		kit.Eventually(t, what, func() bool { return a.now.Load().inNetworkOf(iface, netip.MustParseAddr(peer)) == want })
	}
	must(t, netlink.AddrAdd(far, address(t, "198.51.100.1/24")))
	local("an IPv4 address that is added", "198.51.100.1", true)
	inNetwork("its network", "far", "198.51.100.77", true)
	must(t, netlink.AddrAdd(near, address(t, "2001:db8::1/64")))
	local("an IPv6 address that is added", "2001:db8::1", true)
	must(t, netlink.AddrDel(far, address(t, "198.51.100.1/24")))
	local("an address that is removed", "198.51.100.1", false)
	inNetwork("its network is", "far", "198.51.100.77", false)

	must(t, netlink.AddrAdd(near, address(t, "fe80::abcd/64")))
	local("a link-local address", "fe80::abcd%near", true)
	if a.isLocal("fe80::abcd%far") || a.isLocal("fe80::abcd") {
		t.Error("a link-local address of one link is local on another")
	}
	must(t, netlink.LinkSetDown(near))
	must(t, netlink.LinkSetName(near, "renamed"))
	must(t, netlink.LinkSetUp(near))
	inNetwork("the network under the new name", "renamed", "192.0.2.77", true)
	inNetwork("the network under the old name", "near", "192.0.2.77", false)
	must(t, netlink.AddrReplace(near, address(t, "fe80::abcd/64")))
	local("the link-local address under the new name", "fe80::abcd%renamed", true)
	local("the link-local address under the old name", "fe80::abcd%near", false)

	must(t, netlink.LinkSetDown(near))
	local("the address of a link that is down", "192.0.2.1", false)
	must(t, netlink.LinkSetUp(near))
	local("the address of a link that is up again", "192.0.2.1", true)

	// Two addresses with the same near end: it is local until both are gone.
	for _, other := range []string{"203.0.113.2", "203.0.113.3"} {
		point := address(t, "203.0.113.1/32")
		point.Peer = &net.IPNet{IP: net.ParseIP(other), Mask: net.CIDRMask(32, 32)}
		must(t, netlink.AddrAdd(near, point))
		local("the near end", "203.0.113.1", true)
	}
	if a.isLocal("203.0.113.2") {
		t.Error("the far end of a point-to-point link is local")
	}
	all, err := netlink.AddrList(near, netlink.FAMILY_V4)
	must(t, err)
	for _, last := range []bool{false, true} {
		for i, p := range all {
			if p.IP.String() == "203.0.113.1" {
				must(t, netlink.AddrDel(near, &p))
				all = append(all[:i], all[i+1:]...)
				break
			}
		}
		must(t, netlink.AddrAdd(far, address(t, map[bool]string{false: "10.9.9.1/32", true: "10.9.9.2/32"}[last]))) // read after
		local("the marker", map[bool]string{false: "10.9.9.1", true: "10.9.9.2"}[last], true)
		if a.isLocal("203.0.113.1") == last {
			t.Errorf("the near end, the last one gone %t: local %t", last, !last)
		}
	}
	must(t, netlink.LinkDel(near))
	local("the address of a link that has gone", "192.0.2.1", false)
}

// The kernel reports a port that leaves its bridge as if the link were deleted.
func TestALinkThatLeavesABridgeStays(t *testing.T) {
	near, far := inNetns(t)
	a := follow(t)
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}}))
	bridge, err := netlink.LinkByName("br")
	must(t, err)
	must(t, netlink.AddrAdd(near, address(t, "192.0.2.1/24")))
	must(t, netlink.LinkSetMaster(near, bridge))
	must(t, netlink.LinkSetNoMaster(near))
	must(t, netlink.AddrAdd(far, address(t, "192.0.2.9/32"))) // read after
	kit.Eventually(t, "all is read", func() bool { return a.isLocal("192.0.2.9") })
	if !a.isLocal("192.0.2.1") {
		t.Error("its address is forgotten")
	}
}

// An IPv6 address is not ours if a neighbour has it, or as long as that is not known.
func TestAnAddressThatANeighbourHasIsNotLocal(t *testing.T) {
	near, far := inNetns(t)
	_, err := os.Stat("/proc/sys/net/ipv6")
	kit.Require(t, err == nil, "IPv6")
	a := follow(t)
	must(t, netlink.AddrAdd(far, address(t, "2001:db8::5/64")))
	kit.Eventually(t, "the first one's", func() bool { return a.isLocal("2001:db8::5") })
	duplicate := address(t, "2001:db8::6/64")
	must(t, netlink.AddrDel(far, address(t, "2001:db8::5/64")))
	duplicate.Flags = 0
	must(t, netlink.AddrAdd(near, duplicate))
	must(t, netlink.AddrAdd(far, address(t, "192.0.2.9/32"))) // read after
	kit.Eventually(t, "the event is read", func() bool { return a.isLocal("192.0.2.9") })
	if flags(t, near, "2001:db8::6")&unix.IFA_F_TENTATIVE != 0 && a.isLocal("2001:db8::6") && flags(t, near, "2001:db8::6")&unix.IFA_F_TENTATIVE != 0 {
		t.Error("a tentative address is local")
	}
	kit.Eventually(t, "the address when nobody has it", func() bool { return a.isLocal("2001:db8::6") })

	must(t, netlink.AddrAdd(far, address(t, "fe80::7/64")))
	kit.Eventually(t, "the neighbour's", func() bool { return a.isLocal("fe80::7%far") })
	duplicate = address(t, "fe80::7/64")
	duplicate.Flags = 0
	must(t, netlink.AddrAdd(near, duplicate))
	kit.Eventually(t, "the neighbour says so", func() bool { return flags(t, near, "fe80::7")&unix.IFA_F_DADFAILED != 0 })
	must(t, netlink.AddrAdd(far, address(t, "192.0.2.10/32"))) // read after
	kit.Eventually(t, "the event is read", func() bool { return a.isLocal("192.0.2.10") })
	if a.isLocal("fe80::7%near") {
		t.Error("the address that the neighbour has is local")
	}
}

// At hop limit 1 a peer whose address has just been added gets its token, whichever rule allows it.
func TestAPeerThatTurnsOutToBeLocalGetsItsToken(t *testing.T) {
	near, _ := inNetns(t)
	must(t, netlink.AddrAdd(near, address(t, "192.0.2.1/24")))
	got := false
	for range 50 { // the event is in time mostly, but nothing can make it so on a busy machine
		a := noAddresses()
		l, err := Listen(t.Context(), "192.0.2.1:0")
		must(t, err)
		h := startOn(t, l, Config{Allow: mustParse(t, "192.0.2.0/24"), Addresses: a}, "http-put-response-hop-limit", "1")
		c := h.dial()
		c.roundTrip()
		c.send(put + "\r\n")
		a.show(newPicture([]interfaceAddress{{"near", netip.MustParsePrefix("192.0.2.1/24")}}))
		c.SetReadDeadline(time.Now().Add(time.Second))
		if n, _ := c.Read(make([]byte, 9)); n == 9 {
			got = true
			break
		}
	}
	if !got {
		t.Error("withheld each time")
	}
}

func flags(t *testing.T, link netlink.Link, ip string) int {
	t.Helper()
	all, err := netlink.AddrList(link, netlink.FAMILY_V6)
	must(t, err)
	for _, a := range all {
		if a.IP.String() == ip {
			return a.Flags
		}
	}
	return 0
}

// A new dump makes up for lost events: here the buffer is too small for them.
func TestLostEventsHaveTheAddressesReadAgain(t *testing.T) {
	near, _ := inNetns(t)
	a := noAddresses()
	f, err := newFollower(a, 1)
	must(t, err)
	defer f.close()
	must(t, f.dump())
	for i := range 200 {
		must(t, netlink.AddrAdd(near, address(t, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}).String()+"/32")))
	}
	must(t, netlink.AddrDel(near, address(t, "10.0.0.0/32")))
	lost := false
	for range 300 {
		if lost = lost || f.follow(); lost {
			break
		}
	}
	if !lost {
		t.Fatal("nothing was lost: the test is not what it means to be")
	}
	if a.isLocal("10.0.0.199") {
		t.Fatal("the last event was not lost")
	}
	before := f.dumped
	must(t, f.dump())
	if f.dumped != before+1 || !a.isLocal("10.0.0.199") || a.isLocal("10.0.0.0") {
		t.Error("the addresses are not as they are")
	}
	// Events arrive again.
	must(t, netlink.AddrDel(near, address(t, "10.0.0.199/32")))
	kit.Eventually(t, "the event after", func() bool { return !f.follow() && !a.isLocal("10.0.0.199") })
}

// The same with the goroutine that does everything.
func TestTheAddressesAreRightAfterAStorm(t *testing.T) {
	near, _ := inNetns(t)
	a := follow(t)
	for round := range 5 {
		for i := range 250 {
			must(t, netlink.AddrAdd(near, address(t, netip.AddrFrom4([4]byte{10, byte(round), 0, byte(i)}).String()+"/32")))
		}
		for i := range 249 {
			must(t, netlink.AddrDel(near, address(t, netip.AddrFrom4([4]byte{10, byte(round), 0, byte(i)}).String()+"/32")))
		}
	}
	kit.Eventually(t, "all are as they are", func() bool {
		at, n := a.now.Load(), 0
		for addr := range at.own {
			if addr.Is4() && !addr.IsLoopback() {
				n++
			}
		}
		return n == 5 && a.isLocal("10.4.0.249")
	})
}

func TestWithoutNetlinkOnlyLoopbackIsLocal(t *testing.T) {
	denySocket(t, unix.AF_NETLINK)
	var told []error
	a := FollowAddresses(func(err error) { told = append(told, err) })
	defer a.Close()
	if len(told) != 1 || !errors.Is(told[0], unix.EAFNOSUPPORT) {
		t.Errorf("told %v, want once that netlink is not supported", told)
	}
	if !a.isLocal("127.0.0.1") || !a.isLocal("::1") || a.isLocal("192.0.2.1") {
		t.Error("other addresses are local than the loopback ones")
	}
}

// denySocket makes the kernel refuse sockets of a family to the rest of the test, as a sandbox does.
func denySocket(t *testing.T, family uint32) {
	t.Helper()
	const numberAt, firstArgumentAt = 0, 16 // in struct seccomp_data
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: numberAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SOCKET, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: firstArgumentAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: family, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	runtime.LockOSThread() // and never back: the filter goes with the thread
	must(t, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	must(t, unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})), 0, 0))
}

// Whatever arrives, only the addresses change.
func FuzzNetlinkEvents(f *testing.F) {
	if socket, err := openNetlink(0); err == nil {
		defer socket.close()
		buffer := make([]byte, netlinkPacket)
		for _, kind := range []uint16{unix.RTM_GETLINK, unix.RTM_GETADDR} {
			must(f, socket.request(kind))
			n, err := socket.read(buffer, true)
			must(f, err)
			f.Add(slices.Clone(buffer[:n]))
			must(f, socket.drain(buffer))
		}
	}
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, packet []byte) {
		a := noAddresses()
		f := &follower{addresses: a, links: map[int]link{}}
		f.apply(slices.Clone(packet))
		f.show()
		if !a.isLocal("127.0.0.1") || len(a.now.Load().own) > len(packet)/4 {
			t.Errorf("%v", a.now.Load())
		}
	})
}
