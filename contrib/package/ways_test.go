package packaging

import (
	"fmt"
	"strings"
	"testing"
)

// A way is a way to start imdsfs.
type way struct {
	name, start, stop string
	user              bool // as an ordinary user with directories of his own
}

// asAnn runs as an ordinary user, with root's environment: HOME is /root.
const asAnn = "setpriv --reuid=ann --regid=ann --clear-groups "

// foreground starts a command that stays in the foreground, and waits until it is ready.
func foreground(name, command string, user bool) way {
	return way{name,
		"echo >/root/log; setsid " + command + " >/root/log 2>&1 </dev/null & echo $! >/root/pid\n" +
			"until grep -q msg=ready /root/log; do kill -0 $(cat /root/pid) || { cat /root/log; exit 1; }; sleep 0.02; done",
		"kill $(cat /root/pid); while kill -0 $(cat /root/pid) 2>/dev/null; do sleep 0.02; done", user}
}

var ways = []way{
	{"the unit", "systemctl start imdsfs", "systemctl stop imdsfs", false},
	{"mount -t", "mount -t fuse.imdsfs -o keep " + configPath + " /run/metadata",
		"umount /run/metadata; while cat /proc/[0-9]*/comm 2>/dev/null | grep -qx imdsfs; do sleep 0.02; done", false},
	foreground("serve", "imdsfs serve", false),
	foreground("serve --keep", "imdsfs serve --keep", false),
	foreground("serve --keep --user imdsfs", "imdsfs serve --keep --user imdsfs", false),
	foreground("a user's serve", asAnn+"imdsfs serve --mount none", true),
	foreground("a user's serve --keep", asAnn+"imdsfs serve --mount none --keep", true),
}

// allPairs are the indices of n things in an order in which each follows each, including itself.
func allPairs(n int) []int {
	next := make([]int, n) // the arcs of i that are not taken yet lead to next[i] and higher
	var order []int
	for stack := []int{0}; len(stack) > 0; {
		at := stack[len(stack)-1]
		if next[at] < n {
			next[at]++
			stack = append(stack, next[at]-1)
			continue
		}
		stack, order = stack[:len(stack)-1], append(order, at)
	}
	return order
}

// Each way of starting works after each other: imdsfs becomes ready in its default directories, and has the changes made at
// run time. (imdsfs@NAME has directories that nothing else uses.)
func TestEveryWayOfStartingFollowsEveryOther(t *testing.T) {
	t.Parallel()
	m := installed(t)
	m.configure("", plain)
	m.run("echo 'u ann 1500 - /home/ann' | systemd-sysusers -; mkdir -p /home/ann; chown ann:ann /home/ann")
	set := map[bool]int{false: 1, true: 1}
	before, pairs := "nothing", map[string]bool{}
	for step, i := range allPairs(len(ways)) {
		w := ways[i]
		as := ""
		if w.user {
			as = asAnn
		}
		limit := step%60 + 2
		out, err := m.try(fmt.Sprintf("%s\n%simdsfs options get\n%[2]simdsfs options set http-put-response-hop-limit=%d >/dev/null\ncurl -sS --fail http://127.0.0.1:1338/%s >/dev/null\n%s",
			w.start, as, limit, idPath, w.stop))
		var got int
		_, rest, _ := strings.Cut(out, "http-put-response-hop-limit ")
		fmt.Sscan(rest, &got)
		if err != nil || got != set[w.user] {
			t.Fatalf("%s after %s: %v; the hop limit is %d instead of %d\n%s", w.name, before, err, got, set[w.user], out)
		}
		set[w.user] = limit
		pairs[before+", "+w.name] = true
		before = w.name
	}
	if want := len(ways)*len(ways) + 1; len(pairs) != want {
		t.Errorf("%d pairs instead of %d", len(pairs), want)
	}
	m.nothingServed()
}
