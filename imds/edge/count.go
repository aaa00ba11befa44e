package edge

import (
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/imdsfs/imdsfs/imds"
)

// Requests are counted by countedMethods, where any other method counts as the last, and countedCodes.
var (
	countedMethods = []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodOptions, "other"}
	countedCodes   = []int{
		http.StatusOK, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound,
		http.StatusMethodNotAllowed, http.StatusExpectationFailed, http.StatusServiceUnavailable,
	}
)

// counters count since the start. A request costs one atomic addition.
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
	Version int    // 2 if the request has a header of IMDSv2, else 1
	Method  string // "GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS" or "other"
	Code    int
	Count   uint64
}

// Counts says what a server has done since its start.
type Counts struct {
	Answers         []Answers // without zeros
	NoToken         uint64    // data without a token, as CloudWatch's MetadataNoToken
	NoTokenRejected uint64    // refused because a token is required, as CloudWatch's MetadataNoTokenRejected
	WithToken       uint64    // data with a token
	TokensIssued    uint64    // and sent
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
