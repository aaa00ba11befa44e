package edge

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"strings"
	"sync"

	"github.com/imdsfs/imdsfs/imds"
)

// errBadRequest is answered 400; any other error of reading a request is the connection's.
var errBadRequest = errors.New("malformed or oversized request")

// readHead appends a request line and its headers to head, up to and with the empty line, and never
// more than maxHead bytes. Empty lines before the request are left out (RFC 9112 §2.2).
func readHead(in *bufio.Reader, head []byte) ([]byte, error) {
	lineStart := 0
	for budget := maxHead; ; {
		part, err := in.ReadSlice('\n')
		if budget -= len(part); budget < 0 {
			return head, errBadRequest
		}
		head = append(head, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue // a long line
		}
		if err != nil {
			return head, err
		}
		line := head[lineStart:]
		empty := string(line) == "\r\n" || string(line) == "\n"
		switch {
		case empty && lineStart == 0:
			head = head[:0]
		case empty:
			return head, nil
		default:
			lineStart = len(head)
		}
	}
}

// parsers are buffered readers, so that an idle connection need not hold one.
var parsers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// parseHead leaves the grammar to net/http (control characters, a second Host, escapes, lengths) and
// refuses what that lets pass: folded lines, spaces in names, other protocols. bodyLength is of the
// body that is still to be read, at most maxBody: where there is, or may be, more of it the request
// says Close.
func parseHead(head []byte) (req *imds.Request, bodyLength int, err error) {
	seen, ok := scan(head)
	if !ok {
		return nil, 0, errBadRequest
	}
	reader := parsers.Get().(*bufio.Reader)
	defer parsers.Put(reader)
	reader.Reset(bytes.NewReader(head))
	parsed, err := http.ReadRequest(reader)
	if err != nil || parsed.ProtoMajor != 1 {
		return nil, 0, errBadRequest
	}
	req = &imds.Request{
		Method:      parsed.Method,
		Target:      parsed.RequestURI,
		Minor:       parsed.ProtoMinor,
		Host:        seen.host,
		Header:      parsed.Header,
		MayGetToken: true,
	}
	if seen.encoded || parsed.ContentLength < 0 || parsed.ContentLength > maxBody {
		req.Close = true
		return req, 0, nil
	}
	return req, int(parsed.ContentLength), nil
}

// scanned is what net/http takes out of the headers.
type scanned struct {
	host    string
	encoded bool // there is a Transfer-Encoding, which net/http forgets for HTTP/1.0
}

// scan reports false for a line that is no header.
func scan(head []byte) (seen scanned, ok bool) {
	first := true
	for line := range bytes.Lines(head) {
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if first {
			first = false
			continue
		}
		if len(line) == 0 {
			break
		}
		name, value, found := bytes.Cut(line, []byte(":"))
		if !found || !isToken(name) {
			return scanned{}, false
		}
		switch {
		case bytes.EqualFold(name, []byte("Host")):
			seen.host = strings.Trim(string(value), " \t")
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			seen.encoded = true
		}
	}
	return seen, true
}

// isToken also refuses a line that begins with a space, which continues the one before (RFC 9112
// §5.2: obsolete, and read differently by different servers).
func isToken(name []byte) bool {
	const marks = "!#$%&'*+-.^_`|~"
	for _, c := range name {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(marks, c) >= 0) {
			return false
		}
	}
	return len(name) > 0
}
