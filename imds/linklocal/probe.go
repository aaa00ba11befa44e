package linklocal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// probeTimeout is for all addresses together. A real service answers in a few milliseconds. It is a variable for tests.
var probeTimeout = 300 * time.Millisecond

// An answer is what a probe of an address brought.
type answer struct {
	status string // of the HTTP response, "" without one
	closed bool   // a process took the connection, and closed it without one
}

// unanswered refuses addresses at whose port 80 somebody answers. ours are the addresses of our
// leftover link: there it can only be a process of this machine.
func unanswered(ctx context.Context, addrs []netip.Addr, ours []netip.Prefix) error {
	probing, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	answers := make([]answer, len(addrs))
	var probes sync.WaitGroup
	for i, addr := range addrs {
		probes.Go(func() { answers[i] = probe(probing, netip.AddrPortFrom(addr, 80)) })
	}
	probes.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	for i, addr := range addrs {
		at := netip.AddrPortFrom(addr, 80)
		switch a := answers[i]; {
		case slices.Contains(ours, hostPrefix(addr)) && (a.status != "" || a.closed):
			return &Error{Err: ErrInUse, Detail: fmt.Sprintf("%s, on %s", at, Name), Hint: "stop it (another imdsfs?), or give --force-addresses"}
		case a.status != "":
			return &Error{ipv6: addr.Is6(), Err: ErrAnswered, Detail: fmt.Sprintf("%s says %q", at, a.status),
				Hint: "is this an instance in a cloud? listen elsewhere, or give --force-addresses to hide that service from this machine"}
		}
	}
	return nil
}

// probe asks once. The request carries a token that is none: so a real service answers 401 whatever
// its hop limit, and does not count it as a use of IMDSv1, of which an administrator may be alarmed.
func probe(ctx context.Context, at netip.AddrPort) answer {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+"/", nil)
	if err != nil {
		return answer{}
	}
	req.Header.Set("X-aws-ec2-metadata-token", "none")
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10}, // and no proxy
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err == nil {
		resp.Body.Close()
		return answer{status: fmt.Sprintf("%s %d %s", resp.Proto, resp.StatusCode, http.StatusText(resp.StatusCode))}
	}
	var op *net.OpError
	dialing := errors.As(err, &op) && op.Op == "dial"
	return answer{closed: !dialing && ctx.Err() == nil}
}
