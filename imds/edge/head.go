package edge

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/imdsfs/imdsfs/imds"
)

// errBadRequest is answered with 400. Any other error of reading a request is one of the connection.
var errBadRequest = errors.New("malformed or oversized request")

// readHead appends a request line and its headers to head, including the empty line at the end, at most maxHead bytes. It
// skips empty lines before the request (RFC 9112 §2.2).
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

// parseHead parses what readHead returned. bodyLength bytes of body, at most maxBody, are still to be read. If there is, or
// may be, more, the request says Close.
func parseHead(head []byte) (req *imds.Request, bodyLength int, err error) {
	p := new(parser)
	bodyLength, err = p.parse(head)
	return &p.req, bodyLength, err
}

// answerHeaders are kept. The form of other headers is checked.
var answerHeaders = imds.HeaderNames()

// A parser parses the heads of one connection, one after the other. It is strict about the grammar of RFC 9112: no folded
// lines, no space around names, no control characters, only HTTP/1, one Host, lengths that agree. FuzzParseHead compares
// it with net/http, which allows a little more.
//
// The requests of a connection have most of their text in common (host, token, method). A string that is the same as in
// the request before is not made again, so the common request costs no memory.
type parser struct {
	req     imds.Request
	unread  bool   // there is a body that will not be read
	dirty   bool   // req.Header is not empty
	hosts   int    // how many there were
	codings int    // how many Transfer-Encodings
	coding  []byte // the last one
	lengths int    // how many Content-Lengths
	length  []byte // their value
}

// parse makes p.req the request in head. It shares no memory with head.
func (p *parser) parse(head []byte) (bodyLength int, err error) {
	p.reset()
	line, rest := cutLine(head)
	if !p.requestLine(line) {
		return 0, errBadRequest
	}
	for {
		line, rest = cutLine(rest)
		if len(line) == 0 {
			break
		}
		name, value, found := bytes.Cut(line, []byte(":"))
		if !found || !isToken(name) || !isText(value) || !p.header(name, bytes.Trim(value, " \t")) {
			return 0, errBadRequest
		}
	}
	if p.hosts == 0 {
		p.req.Host = ""
	}
	return p.body()
}

// body returns the length of the body that is to be read.
func (p *parser) body() (length int, err error) {
	var long bool
	if p.lengths > 0 {
		n, err := strconv.ParseUint(string(p.length), 10, 63)
		if err != nil {
			return 0, errBadRequest
		}
		long = n > maxBody
		length = int(min(n, maxBody))
	}
	if p.codings > 0 && p.req.Minor >= 1 && (p.codings > 1 || !bytes.EqualFold(p.coding, []byte("chunked"))) {
		return 0, errBadRequest
	}
	if p.codings > 0 || long {
		p.req.Close, p.unread = true, true
		return 0, nil
	}
	return length, nil
}

// reset forgets the request before, except for its strings.
func (p *parser) reset() {
	p.hosts, p.codings, p.coding, p.lengths, p.length, p.unread = 0, 0, nil, 0, nil, false
	p.req.MayGetToken, p.req.Close = true, false
	if p.dirty {
		for name, values := range p.req.Header {
			p.req.Header[name] = values[:0]
		}
		p.dirty = false
	}
}

// cutLine cuts the first line, without its line end, off text.
func cutLine(text []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(text, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r")), rest
}

func (p *parser) requestLine(line []byte) bool {
	method, rest, _ := bytes.Cut(line, []byte(" "))
	target, protocol, _ := bytes.Cut(rest, []byte(" "))
	if !isToken(method) || len(target) == 0 || !isText(target) || bytes.IndexByte(target, '\t') >= 0 {
		return false
	}
	minor, ok := bytes.CutPrefix(protocol, []byte("HTTP/1."))
	if !ok || len(minor) != 1 || minor[0] < '0' || minor[0] > '9' {
		return false
	}
	p.req.Minor = int(minor[0] - '0')
	reuse(&p.req.Method, method)
	reuse(&p.req.Target, target)
	if target[0] == '/' {
		return true // package imds decodes it
	}
	_, err := url.ParseRequestURI(p.req.Target) // the authority of an absolute-form
	return err == nil
}

// header takes one header. Its value has no spaces around it.
func (p *parser) header(name, value []byte) bool {
	switch {
	case isName(name, "Host"):
		p.hosts++
		reuse(&p.req.Host, value)
		return p.hosts == 1
	case isName(name, "Transfer-Encoding"):
		p.codings++
		p.coding = value
	case isName(name, "Content-Length"):
		if p.lengths++; p.lengths > 1 && !bytes.Equal(p.length, value) {
			return false
		}
		p.length = value
	default:
		for _, known := range answerHeaders {
			if isName(name, known) {
				p.add(known, value)
			}
		}
	}
	return true
}

func (p *parser) add(name string, value []byte) {
	if p.req.Header == nil {
		p.req.Header = http.Header{}
	}
	values := p.req.Header[name]
	n := len(values)
	if n < cap(values) {
		values = values[:n+1]
		reuse(&values[n], value)
	} else {
		values = append(values, string(value))
	}
	p.req.Header[name] = values
	p.dirty = true
}

// reuse sets old to text, without an allocation if it is the same.
func reuse(old *string, text []byte) {
	if *old != string(text) {
		*old = string(text)
	}
}

func isName(name []byte, known string) bool {
	return len(name) == len(known) && bytes.EqualFold(name, []byte(known))
}

// tokenBytes are those of a method or a header's name (RFC 9110 §5.6.2).
var tokenBytes = func() (set [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		set[c] = true
	}
	return set
}()

// isToken also refuses a line that begins with a space. Such a line continues the one before (RFC 9112 §5.2: obsolete, and
// servers disagree on how to read it).
func isToken(name []byte) bool {
	for _, c := range name {
		if !tokenBytes[c] {
			return false
		}
	}
	return len(name) > 0
}

// isText refuses control characters other than tabs (RFC 9110 §5.5).
func isText(value []byte) bool {
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
