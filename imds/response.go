package imds

import (
	"net/http"
	"strconv"
	"time"

	"github.com/imdsfs/imdsfs/source"
)

// A Response is one answer, ready to be written: status line, headers in their order, body.
type Response struct {
	Status  int // 200, 400, 401, 403, 404, 405, 417 or 503
	Headers []Header
	// Body is what is sent. It is empty for HEAD, while Content-Length is still that of GET.
	// The caller must not change it.
	Body []byte
	// Close is whether the connection ends after this answer.
	Close bool
	// HopLimit, if not 0, is the IP TTL (IPv6 hop limit) that the connection must have before
	// the answer is written, because it holds a token. It must never be raised again there.
	HopLimit int
	// RefusedHost is the name that was refused, when the Host header was why.
	RefusedHost string
}

// A Header is one header line.
type Header struct{ Name, Value string }

// reasons as EC2 words them: 405 is "Not Allowed" (captured 2020-04).
var reasons = map[int]string{
	http.StatusOK:                 "OK",
	http.StatusBadRequest:         "Bad Request",
	http.StatusUnauthorized:       "Unauthorized",
	http.StatusForbidden:          "Forbidden",
	http.StatusNotFound:           "Not Found",
	http.StatusMethodNotAllowed:   "Not Allowed",
	http.StatusExpectationFailed:  "Expectation Failed",
	http.StatusServiceUnavailable: "Service Unavailable",
}

// StatusLine is the first line of the answer, without its line end: "HTTP/1.1 200 OK".
func (r *Response) StatusLine() string {
	return "HTTP/1.1 " + strconv.Itoa(r.Status) + " " + reasons[r.Status]
}

// BadRequest is the answer to what is no proper request: empty, and the connection ends.
func BadRequest(now time.Time) Response {
	return answer{now: now, conn: connClose}.plain(http.StatusBadRequest)
}

// A connection is what happens to it after the answer, and what the Connection header says of that.
type connection int

const (
	connOpen      connection = iota // stays open: no header
	connKeepAlive                   // stays open: an HTTP/1.0 client has to be told
	connClose
)

// An answer knows what all responses to one request have in common; its methods make the kinds of
// response, each with the header order that was captured for it.
type answer struct {
	now       time.Time
	conn      connection
	head      bool
	remaining int // seconds that the request's token is still good, 0 without a token
}

// data is a leaf or a listing.
func (a answer) data(v source.View) Response {
	var body []byte
	if v.IsDir() {
		body = v.Listing()
	} else {
		body = v.Bytes()
	}
	headers := append(a.tokenTTL(),
		Header{"Content-Type", v.ContentType()},
		Header{"Accept-Ranges", "none"},
		Header{"Last-Modified", httpDate(v.ModTime())},
		contentLength(len(body)))
	return a.response(http.StatusOK, append(headers, a.trailer()...), body)
}

// token is the answer to a PUT. No newline follows the token: clients paste it into a header.
func (a answer) token(token string, ttl, hopLimit int) Response {
	headers := []Header{{ttlHeader, strconv.Itoa(ttl)}, contentLength(len(token))}
	r := a.response(http.StatusOK, append(headers, a.plainTrailer()...), []byte(token))
	r.HopLimit = hopLimit
	return r
}

// allow has an empty body and says which methods there are.
func (a answer) allow(status int, methods string) Response {
	headers := []Header{{"Allow", methods}, contentLength(0)}
	return a.response(status, append(headers, a.plainTrailer()...), nil)
}

// plain has an empty body.
func (a answer) plain(status int) Response {
	return a.response(status, append([]Header{contentLength(0)}, a.plainTrailer()...), nil)
}

// page has EC2's XHTML page for a body: 339 bytes for a 404 (captured 2025-07).
func (a answer) page(status int) Response {
	title := strconv.Itoa(status) + " - " + reasons[status]
	body := "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n" +
		"<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\"\n" +
		"\t\t \"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd\">\n" +
		"<html xmlns=\"http://www.w3.org/1999/xhtml\" xml:lang=\"en\" lang=\"en\">\n" +
		" <head>\n  <title>" + title + "</title>\n </head>\n" +
		" <body>\n  <h1>" + title + "</h1>\n </body>\n</html>\n"
	headers := append(a.tokenTTL(), Header{"Content-Type", "text/html"}, contentLength(len(body)))
	return a.response(status, append(headers, a.trailer()...), []byte(body))
}

func (a answer) response(status int, headers []Header, body []byte) Response {
	if a.head {
		body = nil
	}
	return Response{Status: status, Headers: headers, Body: body, Close: a.conn == connClose}
}

// tokenTTL is first in every answer to a GET or HEAD with a valid token.
func (a answer) tokenTTL() []Header {
	headers := make([]Header, 0, 8)
	if a.remaining > 0 {
		headers = append(headers, Header{ttlHeader, strconv.Itoa(a.remaining)})
	}
	return headers
}

func (a answer) trailer() []Header {
	headers := []Header{{"Date", httpDate(a.now)}, {"Server", "EC2ws"}}
	switch a.conn {
	case connClose:
		headers = append(headers, Header{"Connection", "close"})
	case connKeepAlive:
		headers = append(headers, Header{"Connection", "keep-alive"})
	}
	return headers
}

// plainTrailer ends the answers whose Content-Type comes last.
func (a answer) plainTrailer() []Header {
	return append(a.trailer(), Header{"Content-Type", "text/plain"})
}

func contentLength(n int) Header { return Header{"Content-Length", strconv.Itoa(n)} }

func httpDate(t time.Time) string { return t.UTC().Format(http.TimeFormat) }
