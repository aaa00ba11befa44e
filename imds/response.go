package imds

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/imdsfs/imdsfs/imds/token"
	"github.com/imdsfs/imdsfs/source/tree"
)

// A Response is one answer. [Response.AppendHead] writes its status line and headers.
type Response struct {
	Status int // 200, 400, 401, 403, 404, 405, 417 or 503
	// Body is what is sent. It is empty for HEAD, while Content-Length is still that of GET.
	// The caller must not change it.
	Body []byte
	// Close is whether the connection ends after this answer.
	Close bool
	// HopLimit, if not 0, is the IP TTL (IPv6 hop limit) that the connection must have before
	// the answer is written, because it holds a token. It must never be raised again there.
	HopLimit int
	// RefusedHost is the name that was refused, when the Host header was why. It shares memory
	// with the Host of the request.
	RefusedHost string

	// The headers, in their order. What lies between the token's TTL and Date does not change
	// from one request to the next, so it is kept ready as text.
	ttl   int    // value of the header of that name, in seconds; 0: there is none
	fixed string // header lines, each with its line end
	now   time.Time
	conn  connection
	plain bool // Content-Type: text/plain comes last
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

var statusLines = func() map[int]string {
	lines := map[int]string{}
	for status, reason := range reasons {
		lines[status] = "HTTP/1.1 " + strconv.Itoa(status) + " " + reason
	}
	return lines
}()

// StatusLine is the first line of the answer, without its line end: "HTTP/1.1 200 OK".
func (r *Response) StatusLine() string { return statusLines[r.Status] }

// AppendHead appends the status line, the headers and the empty line as they are sent, and does not
// allocate while dst has room.
func (r *Response) AppendHead(dst []byte) []byte {
	dst = append(dst, r.StatusLine()...)
	dst = append(dst, "\r\n"...)
	if r.ttl > 0 {
		dst = append(dst, ttlHeader+": "...)
		dst = strconv.AppendInt(dst, int64(r.ttl), 10)
		dst = append(dst, "\r\n"...)
	}
	dst = append(dst, r.fixed...)
	dst = append(dst, "Date: "...)
	dst = append(dst, httpDateNow(r.now)...)
	dst = append(dst, "\r\nServer: EC2ws\r\n"...)
	switch r.conn {
	case connClose:
		dst = append(dst, "Connection: close\r\n"...)
	case connKeepAlive:
		dst = append(dst, "Connection: keep-alive\r\n"...)
	}
	if r.plain {
		dst = append(dst, "Content-Type: text/plain\r\n"...)
	}
	return append(dst, "\r\n"...)
}

// Headers yields what AppendHead writes, line by line.
func (r *Response) Headers(yield func(int, Header) bool) {
	_, rest, _ := strings.Cut(string(r.AppendHead(nil)), "\r\n")
	for i := 0; ; i++ {
		var line string
		if line, rest, _ = strings.Cut(rest, "\r\n"); line == "" {
			return
		}
		name, value, _ := strings.Cut(line, ": ")
		if !yield(i, Header{name, value}) {
			return
		}
	}
}

// BadRequest is the answer to what is no proper request: EC2's page, and the connection ends.
func BadRequest(now time.Time) Response {
	return answer{now: now, conn: connClose}.page(http.StatusBadRequest)
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

// An entity is a body with the headers that depend on it alone.
type entity struct {
	headers string // lines, each with its line end
	body    []byte
}

// data is a leaf or a listing, which is rendered once for as long as the tree holds it.
func (a answer) data(v tree.View) Response {
	e := v.Memo(newEntity).(*entity)
	r := a.response(http.StatusOK, e.headers, e.body)
	r.ttl = a.remaining
	return r
}

func newEntity(v tree.View) any {
	var body []byte
	if v.IsDir() {
		body = v.Listing()
	} else {
		body = v.Bytes()
	}
	return &entity{
		"Content-Type: " + v.ContentType() + "\r\nAccept-Ranges: none\r\nLast-Modified: " + httpDate(v.ModTime()) + "\r\n" + contentLength(len(body)),
		body,
	}
}

// token is the answer to a PUT. No newline follows the token: clients paste it into a header.
func (a answer) token(token string, ttl, hopLimit int) Response {
	r := a.response(http.StatusOK, tokenLength, []byte(token))
	r.ttl, r.plain, r.HopLimit = ttl, true, hopLimit
	return r
}

// allow has an empty body and says which methods there are.
func (a answer) allow(status int, headers string) Response {
	r := a.response(status, headers, nil)
	r.plain = true
	return r
}

// plain has an empty body.
func (a answer) plain(status int) Response {
	r := a.response(status, noLength, nil)
	r.plain = true
	return r
}

// page has EC2's XHTML page for a body.
func (a answer) page(status int) Response {
	e := pages[status]
	r := a.response(status, e.headers, e.body)
	r.ttl = a.remaining
	return r
}

var pages = map[int]entity{
	// 343 bytes: captured in 2018 (ansible/ansible#42371) with the nine spaces of that time where today's 404 has two tabs.
	http.StatusBadRequest:        newPage(http.StatusBadRequest),
	http.StatusNotFound:          newPage(http.StatusNotFound), // 339 bytes (captured 2025-07)
	http.StatusExpectationFailed: newPage(http.StatusExpectationFailed),
}

func newPage(status int) entity {
	title := strconv.Itoa(status) + " - " + reasons[status]
	body := "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n" +
		"<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\"\n" +
		"\t\t \"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd\">\n" +
		"<html xmlns=\"http://www.w3.org/1999/xhtml\" xml:lang=\"en\" lang=\"en\">\n" +
		" <head>\n  <title>" + title + "</title>\n </head>\n" +
		" <body>\n  <h1>" + title + "</h1>\n </body>\n</html>\n"
	return entity{"Content-Type: text/html\r\n" + contentLength(len(body)), []byte(body)}
}

func (a answer) response(status int, headers string, body []byte) Response {
	if a.head {
		body = nil
	}
	return Response{Status: status, Body: body, Close: a.conn == connClose, fixed: headers, now: a.now, conn: a.conn}
}

var (
	allowToken  = "Allow: OPTIONS, PUT\r\n" + noLength
	allowData   = "Allow: GET, HEAD, OPTIONS\r\n" + noLength
	noLength    = contentLength(0)
	tokenLength = contentLength(token.Length)
)

func contentLength(n int) string { return "Content-Length: " + strconv.Itoa(n) + "\r\n" }

func httpDate(t time.Time) string { return t.UTC().Format(http.TimeFormat) }

// httpDateNow is httpDate for a time that is asked for again and again.
func httpDateNow(t time.Time) string {
	second := t.Unix()
	if last := lastDate.Load(); last != nil && last.second == second {
		return last.text
	}
	made := &dateText{second, httpDate(t)}
	lastDate.Store(made)
	return made.text
}

type dateText struct {
	second int64
	text   string
}

var lastDate atomic.Pointer[dateText]
