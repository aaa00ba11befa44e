package edge

import (
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/imdsfs/imdsfs/imds"
)

// countedMethods and countedCodes are what requests are counted by; any other method counts as the last.
var (
	countedMethods = []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodOptions, "other"}
	countedCodes   = []int{
		http.StatusOK, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound,
		http.StatusMethodNotAllowed, http.StatusExpectationFailed, http.StatusServiceUnavailable,
	}
)

// counters count what has happened since the start. A request costs one atomic addition.
type counters struct {
	answers  [2][7][8]atomic.Uint64 // by version, method, code
	withheld atomic.Uint64
}

func (c *counters) answered(req *imds.Request, resp *imds.Response) {
	version, method := 0, len(countedMethods)-1
	if req != nil {
		if req.IsV2() {
			version = 1
		}
		if i := slices.Index(countedMethods, req.Method); i >= 0 {
			method = i
		}
	}
	if i := slices.Index(countedCodes, resp.Status); i >= 0 {
		c.answers[version][method][i].Add(1)
	}
}

// Answers are requests of one kind.
type Answers struct {
	Version int    // 1 or 2: IMDSv2 is what has a header of it
	Method  string // "GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS" or "other"
	Code    int
	Count   uint64
}

// Counts is what a server has done since its start.
type Counts struct {
	Answers         []Answers // without zeros
	NoToken         uint64    // data without a token, as CloudWatch's MetadataNoToken
	NoTokenRejected uint64    // refused for want of one, as CloudWatch's MetadataNoTokenRejected
	WithToken       uint64    // data for a token
	TokensIssued    uint64    // without those withheld
	TokensWithheld  uint64
	PeersRefused    uint64 // connections
	Open            int    // connections, now
}

// Counts may be called at any time.
func (s *Server) Counts() Counts {
	c := Counts{TokensWithheld: s.counters.withheld.Load(), PeersRefused: s.gate.refused.Load(), Open: s.conns.len()}
	for version := range s.counters.answers {
		for m, method := range countedMethods {
			for i, code := range countedCodes {
				n := s.counters.answers[version][m][i].Load()
				if n == 0 {
					continue
				}
				c.Answers = append(c.Answers, Answers{version + 1, method, code, n})
				data := method == http.MethodGet || method == http.MethodHead
				switch {
				case code == http.StatusOK && method == http.MethodPut:
					c.TokensIssued += n
				case code == http.StatusOK && data && version == 1:
					c.WithToken += n
				case code == http.StatusOK && data:
					c.NoToken += n
				case code == http.StatusUnauthorized && version == 0:
					c.NoTokenRejected += n
				}
			}
		}
	}
	return c
}
