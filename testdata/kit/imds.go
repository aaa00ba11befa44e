package kit

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// An IMDS imitates an instance metadata service that requires IMDSv2. Its fields change how.
type IMDS struct {
	T       testing.TB
	Tree    map[string]string // by request URI
	Useful  int64             // how many requests a token is good for; 0: all
	NoToken bool              // fail the test when a token is asked for or shown

	Tokens atomic.Int64 // handed out
	used   atomic.Int64 // requests with the last token
}

func (s *IMDS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const header = "X-Aws-Ec2-Metadata-Token"
	if got := r.Header.Get("Accept-Encoding"); got != "" {
		s.T.Errorf("%s %s: asks for the encoding %s", r.Method, r.RequestURI, got)
	}
	if s.NoToken && (r.Method == http.MethodPut || r.Header.Get(header) != "") {
		s.T.Errorf("%s %s: a token is asked for or shown", r.Method, r.RequestURI)
	}
	if r.Method == http.MethodPut {
		if r.RequestURI != "/latest/api/token" || r.Header.Get(header+"-Ttl-Seconds") != "21600" || r.ContentLength != 0 {
			s.T.Errorf("token request %s, TTL %q, length %d", r.RequestURI, r.Header.Get(header+"-Ttl-Seconds"), r.ContentLength)
		}
		s.used.Store(0)
		fmt.Fprintf(w, "TOKEN%d==", s.Tokens.Add(1))
		return
	}
	good := r.Header.Get(header) == fmt.Sprintf("TOKEN%d==", s.Tokens.Load())
	if n := s.used.Add(1); !s.NoToken && (!good || s.Useful > 0 && n > s.Useful) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	body, ok := s.Tree[r.RequestURI]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, "<html>404 - Not Found</html>")
		return
	}
	fmt.Fprint(w, body)
}

// ServeHTTP is the address of a server that stops with the test.
func ServeHTTP(t testing.TB, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}
