package edge

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source/clock"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

func TestParseAllow(t *testing.T) {
	for _, s := range []string{"local", "10.0.0.0/8", "192.0.2.1/32", "0.0.0.0/0", "fd00::/8", "::1/128", "iface:docker0", "iface:br-0a1b2c3d4e5f"} {
		if r, err := ParseAllow(s); err != nil || r.String() != s {
			t.Errorf("ParseAllow(%q) = %q, %v", s, r, err)
		}
	}
	for s, want := range map[string]string{
		"":                       "give local, a network such as 172.17.0.0/16, or iface:NAME",
		"Local":                  "give local",
		"docker0":                "give local",
		"10.0.0.0/33":            "give local",
		"10.0.0.0/8 ":            "give local",
		"fe80::%eth0/64":         "give local",
		"10.0.0.1":               "write 10.0.0.1/32",
		"fd00::1":                "write fd00::1/128",
		"10.0.0.1/8":             "write 10.0.0.0/8",
		"fd00::1/64":             "write fd00::/64",
		"::ffff:10.0.0.0/104":    "write an IPv4 network as IPv4",
		"iface:":                 "no name of an interface",
		"iface:a/b":              "no name of an interface",
		"iface:0123456789abcdef": "no name of an interface",
		"iface:..":               "no name of an interface",
		"iface:a\x00b":           "no name of an interface",
		"iface:a\rb":             "no name of an interface",
	} {
		if _, err := ParseAllow(s); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), strconv.Quote(s)+": ") {
			t.Errorf("ParseAllow(%q): error %v, want one that quotes it and says %q", s, err, want)
		}
	}
}

// machine has a LAN on eth0, containers on docker0, and, as every machine, a link-local address on each.
func machine() *picture {
	return newPicture([]interfaceAddress{
		{"lo", netip.MustParsePrefix("127.0.0.1/8")},
		{"eth0", netip.MustParsePrefix("192.0.2.10/24")},
		{"eth0", netip.MustParsePrefix("2001:db8::10/64")},
		{"eth0", netip.MustParsePrefix("fe80::a/64")},
		{"docker0", netip.MustParsePrefix("172.17.0.1/16")},
		{"docker0", netip.MustParsePrefix("fe80::d/64")},
		{"imds0", netip.MustParsePrefix("169.254.169.254/32")},
	})
}

func TestRules(t *testing.T) {
	for _, c := range []struct {
		rule    string
		yes, no []string
	}{
		{"local",
			[]string{"127.0.0.1", "127.9.9.9", "::1", "192.0.2.10", "2001:db8::10", "172.17.0.1", "169.254.169.254", "fe80::a%eth0", "fe80::d%docker0"},
			[]string{"192.0.2.11", "2001:db8::11", "172.17.0.2", "169.254.169.253", "fe80::b%eth0", "fe80::a%docker0", "fe80::d%eth0", "fe80::a", "10.0.0.1"}},
		{"172.17.0.0/16", []string{"172.17.0.1", "172.17.255.255"}, []string{"172.18.0.1", "127.0.0.1", "::1"}},
		{"0.0.0.0/0", []string{"127.0.0.1", "10.0.0.1"}, []string{"::1"}},
		{"fe80::/64", []string{"fe80::1%eth0", "fe80::2%docker0"}, []string{"fe80:0:0:1::1%eth0", "127.0.0.1"}},
		{"iface:docker0",
			[]string{"172.17.0.1", "172.17.0.2", "fe80::5%docker0"},
			[]string{"172.18.0.1", "192.0.2.10", "127.0.0.1", "fe80::5%eth0", "fe80::5"}},
		{"iface:lo", []string{"127.0.0.1", "127.1.2.3"}, []string{"::1", "192.0.2.10"}},
		{"iface:absent", nil, []string{"127.0.0.1", "172.17.0.1", "fe80::5%absent"}},
	} {
		rule, err := ParseAllow(c.rule)
		if err != nil {
			t.Fatal(err)
		}
		check := func(peers []string, want bool) {
			for _, p := range peers {
				if got := rule.allows(netip.MustParseAddr(p), machine()); got != want {
					t.Errorf("%s: peer %s allowed: %t", c.rule, p, got)
				}
			}
		}
		check(c.yes, true)
		check(c.no, false)
	}
}

func mustParse(t *testing.T, rules ...string) (parsed []Rule) {
	t.Helper()
	for _, s := range rules {
		r, err := ParseAllow(s)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, r)
	}
	return parsed
}

// A recorder collects the arguments of a callback.
type recorder[T any] struct {
	mu  sync.Mutex
	got []T
}

func (r *recorder[T]) add(v T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, v)
}

func (r *recorder[T]) all() []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func TestOtherPeersAreClosedUnansweredAndReportedOnceAMinute(t *testing.T) {
	var peers recorder[netip.Addr]
	h := start(t, Config{Allow: mustParse(t, "10.0.0.0/8"), RefusedPeer: peers.add})
	loopback := netip.MustParseAddr("127.0.0.1")
	refused := func(want ...netip.Addr) {
		t.Helper()
		for range 3 {
			h.dial().expectEnd(false)
		}
		kit.Eventually(t, "all are seen to", func() bool { return len(h.gate.addresses.secondLooks) == 0 })
		if got := peers.all(); !slices.Equal(got, want) {
			t.Errorf("reported %v, want %v", got, want)
		}
	}
	refused(loopback)
	h.clock.Advance(59 * time.Second)
	refused(loopback)
	h.clock.Advance(time.Second)
	refused(loopback, loopback)
}

func TestAnyRuleLetsAPeerIn(t *testing.T) {
	for _, rules := range [][]string{{"10.0.0.0/8", "local"}, {"iface:lo"}, {"127.0.0.0/8"}} {
		h := start(t, Config{Allow: mustParse(t, rules...), Addresses: follow(t)})
		h.dial().roundTrip()
	}
	start(t, Config{}).dial().roundTrip() // local, when nothing is said
	start(t, Config{Allow: []Rule{}}).dial().expectEnd(false)
}

func TestRefusedHostIsReportedOnceAMinute(t *testing.T) {
	var hosts recorder[string]
	h := start(t, Config{RefusedHost: hosts.add})
	c := h.dial()
	refused := func(name string, want ...string) {
		t.Helper()
		c.send(strings.Replace(get, "169.254.169.254", name, 1))
		c.expect("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n" + h.date() + "Server: EC2ws\r\nContent-Type: text/plain\r\n\r\n")
		if got := hosts.all(); !slices.Equal(got, want) {
			t.Errorf("reported %q, want %q", got, want)
		}
	}
	refused("metadata:1338", "metadata")
	refused("metadata:1338", "metadata")
	refused("other", "metadata")
	h.clock.Advance(time.Minute)
	refused("other.", "metadata", "other")
}

func (h *harness) date() string {
	return "Date: " + h.clock.Now().Format("Mon, 02 Jan 2006 15:04:05") + " GMT\r\n"
}

func TestReportsAreBounded(t *testing.T) {
	clock := clock.NewManual(now)
	throttle := newThrottle[int](clock, 3)
	for i := range 5 {
		if got, want := throttle.allow(i), i < 3; got != want {
			t.Errorf("report %d: %t, want %t", i, got, want)
		}
	}
	clock.Advance(time.Minute)
	for i := range 5 {
		if got, want := throttle.allow(4-i), i < 3; got != want {
			t.Errorf("a minute later report %d: %t, want %t", i, got, want)
		}
	}
	if len(throttle.last) != 3 || len(throttle.order) != 3 {
		t.Errorf("%d keys are remembered in an order of %d, want 3", len(throttle.last), len(throttle.order))
	}
}

// A full throttle takes no longer than an empty one, because refused peers wait for it.
func BenchmarkFullThrottle(b *testing.B) {
	throttle := newThrottle[int](clock.NewManual(now), reportedMax)
	for i := range reportedMax {
		throttle.allow(i)
	}
	for i := 0; b.Loop(); i++ {
		throttle.allow(reportedMax + i)
	}
}

// A far is a connection with a peer and nothing else.
type far struct {
	net.Conn
	peer net.TCPAddr
}

func (f *far) RemoteAddr() net.Addr { return &f.peer }

// TestNobodyIsRefusedByAnOldPicture: on a busy machine a process may use an address before we have read of it.
func TestNobodyIsRefusedByAnOldPicture(t *testing.T) {
	own := interfaceAddress{"eth0", netip.MustParsePrefix("192.0.2.1/24")}
	peer := &far{peer: *net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:1234"))}
	for name, want := range map[string]bool{"told at last": true, "told that there is nothing": false} {
		a, looks := noAddresses(), 0
		a.behind = func() bool {
			if looks++; looks == 5 && want {
				a.show(newPicture([]interfaceAddress{own}))
			}
			return looks < 5 || want
		}
		g := newGate(nil, a, clock.System(), nil)
		if v := g.lookAgain(peer); v.allowed != want || looks != 5 {
			t.Errorf("%s: allowed %v after %d looks", name, v.allowed, looks)
		}
	}
}
