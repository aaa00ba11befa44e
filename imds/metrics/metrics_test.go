package metrics

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// filled is a sample that shows every metric.
func filled() Sample {
	return Sample{
		Build: Build{Version: "v1.2.3", Go: "go1.26.0", GoFUSE: "v2.12.1"},
		Requests: map[Request]uint64{
			{V2: false, Method: "GET", Code: 200}:  11,
			{V2: false, Method: "GET", Code: 401}:  5,
			{V2: true, Method: "GET", Code: 200}:   22,
			{V2: true, Method: "PUT", Code: 200}:   7,
			{V2: true, Method: "BREW", Code: 405}:  1,
			{V2: true, Method: "PATCH", Code: 405}: 2,
		},
		MetadataNoToken: 11, MetadataNoTokenRejected: 5, TokensIssued: 7, TokensWithheld: 1,
		ConnectionsOpen: 3, ConnectionsRefused: 4,
		PublishFailures: 1, Reloads: 6, ReloadFailures: 2, ReloadFailing: true,
		Sources:           []Source{{"host", 90 * time.Second}, {"file", 1500 * time.Millisecond}, {"overlay", 0}},
		CredentialsExpiry: time.Unix(1_800_000_000, 250e6),
		Mount:             &Mount{Mounted: true, Stalled: 2},
	}
}

func exporterOf(s Sample) *Exporter { return New(func() Sample { return s }) }

const wantFilled = `
# HELP imdsfs_build_info What imdsfs is built from; always 1.
# TYPE imdsfs_build_info gauge
imdsfs_build_info{gofuseversion="v2.12.1",goversion="go1.26.0",version="v1.2.3"} 1
# HELP imdsfs_connections Connections to the metadata service that are open.
# TYPE imdsfs_connections gauge
imdsfs_connections 3
# HELP imdsfs_connections_refused_total Connections that were closed unanswered, because allow-from does not list the peer.
# TYPE imdsfs_connections_refused_total counter
imdsfs_connections_refused_total 4
# HELP imdsfs_credentials_expiry_timestamp_seconds When the credentials that expire first do so, in seconds since 1970; absent without credentials.
# TYPE imdsfs_credentials_expiry_timestamp_seconds gauge
imdsfs_credentials_expiry_timestamp_seconds 1.80000000025e+09
# HELP imdsfs_http_requests_total Requests to the metadata service that were answered, by version of the protocol (v1 without a token, v2 with one or for one), method and status code.
# TYPE imdsfs_http_requests_total counter
imdsfs_http_requests_total{code="200",method="GET",version="v1"} 11
imdsfs_http_requests_total{code="200",method="GET",version="v2"} 22
imdsfs_http_requests_total{code="200",method="PUT",version="v2"} 7
imdsfs_http_requests_total{code="401",method="GET",version="v1"} 5
imdsfs_http_requests_total{code="405",method="other",version="v2"} 3
# HELP imdsfs_last_reload_successful Whether the sources were good when they were last read (1) or older metadata is served (0).
# TYPE imdsfs_last_reload_successful gauge
imdsfs_last_reload_successful 0
# HELP imdsfs_metadata_no_token_rejected_total Requests without a token that were refused because one is required, as MetadataNoTokenRejected in CloudWatch.
# TYPE imdsfs_metadata_no_token_rejected_total counter
imdsfs_metadata_no_token_rejected_total 5
# HELP imdsfs_metadata_no_token_total Requests without a token that were answered with metadata, as MetadataNoToken in CloudWatch.
# TYPE imdsfs_metadata_no_token_total counter
imdsfs_metadata_no_token_total 11
# HELP imdsfs_mount_stalled_notifies_total Changes that the kernel did not take in time: old values may show on the mount.
# TYPE imdsfs_mount_stalled_notifies_total counter
imdsfs_mount_stalled_notifies_total 2
# HELP imdsfs_mounted Whether the file system is mounted (1) or not (0); absent if no mount is wanted.
# TYPE imdsfs_mounted gauge
imdsfs_mounted 1
# HELP imdsfs_publish_duration_seconds How long the mount and HTTP took to show a change; the count is that of changes shown.
# TYPE imdsfs_publish_duration_seconds histogram
imdsfs_publish_duration_seconds_bucket{le="0.0001"} 1
imdsfs_publish_duration_seconds_bucket{le="0.00025"} 1
imdsfs_publish_duration_seconds_bucket{le="0.0005"} 1
imdsfs_publish_duration_seconds_bucket{le="0.001"} 1
imdsfs_publish_duration_seconds_bucket{le="0.0025"} 1
imdsfs_publish_duration_seconds_bucket{le="0.005"} 2
imdsfs_publish_duration_seconds_bucket{le="0.01"} 2
imdsfs_publish_duration_seconds_bucket{le="0.025"} 2
imdsfs_publish_duration_seconds_bucket{le="0.05"} 2
imdsfs_publish_duration_seconds_bucket{le="0.1"} 2
imdsfs_publish_duration_seconds_bucket{le="0.25"} 2
imdsfs_publish_duration_seconds_bucket{le="0.5"} 2
imdsfs_publish_duration_seconds_bucket{le="1"} 2
imdsfs_publish_duration_seconds_bucket{le="2.5"} 2
imdsfs_publish_duration_seconds_bucket{le="5"} 2
imdsfs_publish_duration_seconds_bucket{le="+Inf"} 3
imdsfs_publish_duration_seconds_sum 8.00405
imdsfs_publish_duration_seconds_count 3
# HELP imdsfs_publish_failures_total Changes that did not reach the mount and HTTP.
# TYPE imdsfs_publish_failures_total counter
imdsfs_publish_failures_total 1
# HELP imdsfs_reload_failures_total Attempts to read the sources again that failed.
# TYPE imdsfs_reload_failures_total counter
imdsfs_reload_failures_total 2
# HELP imdsfs_reloads_total Attempts to read the sources again.
# TYPE imdsfs_reloads_total counter
imdsfs_reloads_total 6
# HELP imdsfs_source_age_seconds Time since the source was last read and found good.
# TYPE imdsfs_source_age_seconds gauge
imdsfs_source_age_seconds{source="file"} 1.5
imdsfs_source_age_seconds{source="host"} 90
imdsfs_source_age_seconds{source="overlay"} 0
# HELP imdsfs_tokens_issued_total Session tokens that were handed out.
# TYPE imdsfs_tokens_issued_total counter
imdsfs_tokens_issued_total 7
# HELP imdsfs_tokens_withheld_total Answers with a token that were not sent, because the hop limit would have lost them on the way to the client.
# TYPE imdsfs_tokens_withheld_total counter
imdsfs_tokens_withheld_total 1
`

func TestEverythingIsExported(t *testing.T) {
	e := exporterOf(filled())
	for _, took := range []time.Duration{50 * time.Microsecond, 4 * time.Millisecond, 8 * time.Second} {
		e.ObservePublish(took)
	}
	if err := testutil.CollectAndCompare(e, strings.NewReader(wantFilled)); err != nil {
		t.Error(err)
	}
}

func TestNamesFollowTheConventions(t *testing.T) {
	problems, err := testutil.CollectAndLint(exporterOf(filled()))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestWhatIsNotThereIsNotExported(t *testing.T) {
	e := exporterOf(Sample{})
	for name, want := range map[string]int{
		"imdsfs_mounted":                              0,
		"imdsfs_mount_stalled_notifies_total":         0,
		"imdsfs_credentials_expiry_timestamp_seconds": 0,
		"imdsfs_source_age_seconds":                   0,
		"imdsfs_http_requests_total":                  0,
		"imdsfs_metadata_no_token_total":              1, // a counter starts at 0, not when it is first needed
		"imdsfs_tokens_withheld_total":                1,
		"imdsfs_last_reload_successful":               1,
	} {
		if got := testutil.CollectAndCount(e, name); got != want {
			t.Errorf("%s: %d series, want %d", name, got, want)
		}
	}
}

func TestLabelsAreBoundedWhateverClientsSend(t *testing.T) {
	s := Sample{Requests: map[Request]uint64{}}
	for i := range 1000 {
		for _, v2 := range []bool{false, true} {
			s.Requests[Request{v2, fmt.Sprintf("METHOD-%d", i), 405}]++
			s.Requests[Request{v2, "GET", 1000 + i}]++
			s.Requests[Request{v2, "get", -i}]++
		}
		s.Sources = append(s.Sources, Source{fmt.Sprintf("/etc/passwd-%d", i), time.Duration(i) * time.Second})
	}
	want := `
# HELP imdsfs_http_requests_total Requests to the metadata service that were answered, by version of the protocol (v1 without a token, v2 with one or for one), method and status code.
# TYPE imdsfs_http_requests_total counter
imdsfs_http_requests_total{code="405",method="other",version="v1"} 1000
imdsfs_http_requests_total{code="405",method="other",version="v2"} 1000
imdsfs_http_requests_total{code="other",method="GET",version="v1"} 1000
imdsfs_http_requests_total{code="other",method="GET",version="v2"} 1000
imdsfs_http_requests_total{code="other",method="other",version="v1"} 1000
imdsfs_http_requests_total{code="other",method="other",version="v2"} 1000
# HELP imdsfs_source_age_seconds Time since the source was last read and found good.
# TYPE imdsfs_source_age_seconds gauge
imdsfs_source_age_seconds{source="other"} 999
`
	err := testutil.CollectAndCompare(exporterOf(s), strings.NewReader(want), "imdsfs_http_requests_total", "imdsfs_source_age_seconds")
	if err != nil {
		t.Error(err)
	}
}

func TestOneReadForEachScrape(t *testing.T) {
	reads := 0
	e := New(func() Sample { reads++; return filled() })
	if reads != 0 {
		t.Errorf("%d reads before anybody scraped", reads)
	}
	for range 3 {
		e.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil))
	}
	if reads != 3 {
		t.Errorf("%d reads for 3 scrapes", reads)
	}
}

func TestExportersShareNothing(t *testing.T) {
	a, b := exporterOf(Sample{}), exporterOf(Sample{})
	a.ObservePublish(time.Second)
	text := scrape(t, b)
	if !strings.Contains(text, "imdsfs_publish_duration_seconds_count 0\n") {
		t.Error("one exporter shows what another counted")
	}
	if families, err := prometheus.DefaultGatherer.Gather(); err != nil || strings.Contains(fmt.Sprint(families), namespace+"_") {
		t.Errorf("the global registry knows us (%v)", err)
	}
}

func TestRuntimeAndProcessAreExportedToo(t *testing.T) {
	text := scrape(t, exporterOf(Sample{}))
	for _, name := range []string{"go_goroutines", "go_info", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"} {
		if !regexp.MustCompile(`(?m)^` + name + `[ {]`).MatchString(text) {
			t.Errorf("no %s", name)
		}
	}
}

func scrape(t *testing.T, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("GET /metrics: %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// serve runs an exporter on a free port of the loopback until the test ends.
func serve(t *testing.T) (address string, stop func() error) {
	t.Helper()
	return servePort(t, Port{})
}

func servePort(t *testing.T, port Port) (address string, stop func() error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- exporterOf(filled()).Serve(ctx, listener, port) }()
	t.Cleanup(cancel)
	return listener.Addr().String(), func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(20 * time.Second):
			return os.ErrDeadlineExceeded
		}
	}
}

func TestOnlyGetAndHeadOfMetrics(t *testing.T) {
	address, _ := serve(t)
	for _, c := range []struct {
		method, path string
		status       int
		shows        bool
	}{
		{"GET", "/metrics", 200, true},
		{"HEAD", "/metrics", 200, false},
		{"POST", "/metrics", 405, false},
		{"PUT", "/metrics", 405, false},
		{"DELETE", "/metrics", 405, false},
		{"GET", "/", 404, false},
		{"GET", "/metrics/", 404, false},
		{"GET", "/debug/pprof/", 404, false},
		{"GET", "/latest/meta-data/", 404, false},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			req, err := http.NewRequest(c.method, "http://"+address+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.status {
				t.Errorf("status %d, want %d", resp.StatusCode, c.status)
			}
			if shows := strings.Contains(string(body), "imdsfs_build_info{"); shows != c.shows {
				t.Errorf("shows metrics: %v, want %v", shows, c.shows)
			}
		})
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	address, stop := serve(t)
	idle, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	fmt.Fprint(idle, "HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
	reader := bufio.NewReader(idle)
	resp, err := http.ReadResponse(reader, &http.Request{Method: "HEAD"})
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("HEAD /metrics: %v %v", resp, err)
	}
	if err := stop(); err != nil {
		t.Errorf("Serve returned %v", err)
	}
	idle.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := reader.ReadByte(); err == nil || os.IsTimeout(err) {
		t.Errorf("an idle connection stays open: %v", err)
	}
	if c, err := net.Dial("tcp", address); err == nil {
		c.Close()
		t.Error("the listener stays open")
	}
}

func TestLongHeadersAreRefused(t *testing.T) {
	address, _ := serve(t)
	req, err := http.NewRequest("GET", "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Long", strings.Repeat("x", 64<<10))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d", resp.StatusCode)
	}
}
