package main

import (
	"fmt"
	"strings"
)

const (
	hostLine = "Host: 169.254.169.254\r\n"
	plainGet = "GET /latest/meta-data/ HTTP/1.1\r\n" + hostLine + "\r\n"
	putHead  = "PUT /latest/api/token HTTP/1.1\r\n" + hostLine + "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n"
)

// request is a GET with more header lines.
func request(target string, lines ...string) string {
	return "GET " + target + " HTTP/1.1\r\n" + hostLine + strings.Join(lines, "") + "\r\n"
}

// httpAttacks are streams that a server in front of us may read differently, and streams that are not HTTP/1.
var httpAttacks = []attack{
	wire("a length and chunks", "both, in both orders, with a request behind", "one answer, connection closed",
		"200 close|400 close", putHead+"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+plainGet,
		"200 close|400 close", putHead+"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"+plainGet),
	wire("chunks", "a chunked body with a request in it and behind it", "one answer, connection closed",
		"200 close", putHead+"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"+plainGet,
		"200 close", putHead+"Transfer-Encoding: chunked\r\n\r\n"+fmt.Sprintf("%x", len(plainGet))+"\r\n"+plainGet+"\r\n0\r\n\r\n",
		"200 close", putHead+"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"+plainGet),
	wire("obscured codings", "`xchunked`, `chunked, identity`, tabs, two headers, quoted, `\\vchunked`", "400, connection closed",
		"400 close", putHead+"Transfer-Encoding: xchunked\r\n\r\n"+plainGet,
		"400 close", putHead+"Transfer-Encoding: chunked, identity\r\n\r\n"+plainGet,
		"400 close", putHead+"Transfer-Encoding: identity, chunked\r\n\r\n"+plainGet,
		"400 close", putHead+"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n"+plainGet,
		"400 close", putHead+"Transfer-Encoding: \"chunked\"\r\n\r\n"+plainGet,
		"400 close", putHead+"Transfer-Encoding: \x0bchunked\r\n\r\n"+plainGet,
		"400 close", putHead+"Transfer-Encoding: chunked;q=1\r\n\r\n"+plainGet,
		"400 close", putHead+"Transfer-Encoding:\r\n chunked\r\n\r\n"+plainGet,
		"400 close", putHead+"Transfer-Encoding : chunked\r\n\r\n"+plainGet,
		"400 close", putHead+" Transfer-Encoding: chunked\r\n\r\n"+plainGet,
		"400 close", putHead+"Transfer-Encoding: \r\n\r\n"+plainGet),
	wire("two lengths", "different ones, a list", "400, connection closed",
		"400 close", putHead+"Content-Length: 3\r\nContent-Length: 4\r\n\r\nxyz"+plainGet,
		"400 close", putHead+"Content-Length: 3, 3\r\n\r\nxyz"+plainGet,
		"400 close", putHead+"Content-Length: 0\r\nContent-Length: 40\r\n\r\n"+plainGet),
	wire("lengths that are no numbers", "+3, -1, 0x3, 3.0, empty, 10⁴⁰, `3;`", "400, connection closed",
		"400 close", putHead+"Content-Length: +3\r\n\r\nxyz"+plainGet,
		"400 close", putHead+"Content-Length: -1\r\n\r\nxyz"+plainGet,
		"400 close", putHead+"Content-Length: 0x3\r\n\r\nxyz"+plainGet,
		"400 close", putHead+"Content-Length: 3.0\r\n\r\nxyz"+plainGet,
		"400 close", putHead+"Content-Length:\r\n\r\nxyz"+plainGet,
		"400 close", putHead+"Content-Length: 1"+strings.Repeat("0", 40)+"\r\n\r\nxyz"+plainGet,
		"400 close", putHead+"Content-Length: 3;\r\n\r\nxyz"+plainGet,
		"400 close", putHead+"Content-Length: 1_0\r\n\r\nxyz"+plainGet,
		"400 close", putHead+"Content-Length: ３\r\n\r\nxyz"+plainGet),
	wire("a request in the body of a PUT", "a body that is a request; a length that says too little", "the body is no request; what is left over is 400",
		"200", putHead+fmt.Sprintf("Content-Length: %d\r\n\r\n", len(plainGet))+plainGet,
		"200 200", putHead+"Content-Length: 3\r\n\r\nxyz"+plainGet,
		"200 400 close", putHead+"Content-Length: 1\r\n\r\nxyz\r\n\r\n"+plainGet,
		"200 200", "GET /latest/ HTTP/1.1\r\n"+hostLine+fmt.Sprintf("Content-Length: %d\r\n\r\n", len(plainGet))+plainGet+plainGet),
	wire("a body that is longer than is read", "10 GiB announced, 1 MiB sent, a request behind", "one answer, connection closed",
		"200 close", putHead+"Content-Length: 10737418240\r\n\r\n"+strings.Repeat("x", 1<<20)+plainGet,
		"417 close", putHead+"Expect: 100-continue\r\nContent-Length: 10737418240\r\n\r\n"+strings.Repeat("x", 1000)+plainGet),
	wire("folded lines", "a header that goes on in the next line, with a space or a tab", "400, connection closed",
		"400 close", request("/latest/", "X: a\r\n b\r\n"),
		"400 close", request("/latest/", "X: a\r\n\tb\r\n"),
		"400 close", request("/latest/", "X-Forwarded-For:\r\n 1.2.3.4\r\n"),
		"400 close", "GET /latest/ HTTP/1.1\r\n X: y\r\n"+hostLine+"\r\n"),
	wire("space around names", "before the colon, before the name, no name, no colon", "400, connection closed",
		"400 close", request("/latest/", "X : y\r\n"),
		"400 close", request("/latest/", "X\t: y\r\n"),
		"400 close", request("/latest/", ": y\r\n"),
		"400 close", request("/latest/", "nothing\r\n"),
		"400 close", request("/latest/", "a b: c\r\n"),
		"400 close", request("/latest/", "(x): y\r\n"),
		"400 close", request("/latest/", "\xffx: y\r\n")),
	wire("line ends", "bare CR in a line, in the request line, in the target; CR CR LF", "400, connection closed",
		"400 close", request("/latest/", "X: a\rb\r\n"),
		"400 close", request("/latest/", "X: a\r\r\n"),
		"400 close", "GET /latest/\rX HTTP/1.1\r\n"+hostLine+"\r\n",
		"400 close", "GET /latest/ HTTP/1.1\r\r\n"+hostLine+"\r\n",
		"400 close", request("/latest/", "X: a\rTransfer-Encoding: chunked\r\n")),
	wire("lines that end in LF alone", "a whole head, a mixed one, a hidden header", "every LF ends a line, so nothing hides: the forwarded PUT is 403",
		"200|400 close", "GET /latest/ HTTP/1.1\nHost: localhost\n\n",
		"403|400 close", strings.Replace(putHead, "\r\n", "\nX-Forwarded-For: 1\r\n", 1)+"\r\n",
		"403|400 close", putHead+"X: y\nX-Forwarded-For: 1\r\n\r\n"),
	wire("control characters in values", "NUL, VT, DEL, ESC in a value", "400, connection closed",
		"400 close", request("/latest/", "X: a\x00b\r\n"),
		"400 close", request("/latest/", "X: a\x0bb\r\n"),
		"400 close", request("/latest/", "X: a\x7fb\r\n"),
		"400 close", request("/latest/", "X: \x1b[2J\r\n")),
	wire("other versions of HTTP", "2.0, 3.0, 1.10, 0.9, `HTTP/1.1x`, `http/1.1`, none", "400, connection closed",
		"400 close", "GET /latest/ HTTP/2.0\r\n"+hostLine+"\r\n",
		"400 close", "GET /latest/ HTTP/3.0\r\n"+hostLine+"\r\n",
		"400 close", "GET /latest/ HTTP/1.10\r\n"+hostLine+"\r\n",
		"400 close", "GET /latest/ HTTP/0.9\r\n"+hostLine+"\r\n",
		"400 close", "GET /latest/ HTTP/1.1x\r\n"+hostLine+"\r\n",
		"400 close", "GET /latest/ http/1.1\r\n"+hostLine+"\r\n",
		"400 close", "GET /latest/ HTTP/1.1 HTTP/1.1\r\n"+hostLine+"\r\n",
		"400 close", "GET /latest/\r\n"+hostLine+"\r\n",
		"", "GET /latest/meta-data/instance-id\r\n"),
	wire("other protocols", "the preface of HTTP/2, a TLS hello, SSH, SMTP, the PROXY protocol, a gopher's line", "nothing but 400 or silence",
		"400 close", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"(400 close)?", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"+strings.Repeat("\x17", 500),
		"(400 close)?", "SSH-2.0-OpenSSH_9.2\r\n\r\n",
		"400 close", "EHLO evil.test\r\nMAIL FROM:<a@evil.test>\r\n\r\n",
		"400 close", "PROXY TCP4 127.0.0.1 127.0.0.1 1 80\r\n"+plainGet,
		"400 close", "\r\n\r\nPROXY UNKNOWN\r\n"+plainGet,
		"(400 close)?", "\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"+plainGet),
	wire("garbage", "64 KiB of zeros, of 0xff, of line feeds, of spaces, of CR", "nothing but 400 or silence",
		"(400 close)?", strings.Repeat("\x00", 64<<10),
		"(400 close)?", strings.Repeat("\xff", 64<<10),
		"(400 close)?", strings.Repeat("\n", 64<<10),
		"(400 close)?", strings.Repeat(" ", 64<<10),
		"(400 close)?", strings.Repeat("\r", 64<<10)),
	wire("forms of the target", "CONNECT, `*`, no slash, a fragment, a scheme", "refused, nothing is fetched for anybody",
		"400 close", "CONNECT 169.254.169.254:80 HTTP/1.1\r\n"+hostLine+"\r\n",
		"400.*", "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n",
		"400 close", "OPTIONS * HTTP/1.1\r\n"+hostLine+"\r\n",
		"400 close", request("latest/"),
		"400 close", request("file:///etc/passwd"),
		"400 close", request("gopher://169.254.169.254/"),
		"404", request("/latest/meta-data/#instance-id"),
		"400 close", request("")),
	wire("ways out of the tree", "`..`, `%2e%2e`, `..;`, backslashes, `%2f`, `%5c`, overlong UTF-8, `/proc`", "404, or 400",
		"404", request("/../../etc/passwd"), "404", request("/latest/../latest/meta-data/"), "404", request("/latest/%2e%2e/latest/"),
		"404", request("/%2e%2e/%2e%2e/etc/passwd"), "404", request("/..%2f..%2fetc%2fpasswd"), "404", request("/latest/..;/latest/"),
		"404", request(`/latest\..\..\etc\passwd`), "404", request("/%5c..%5cetc"), "404", request("/%c0%ae%c0%ae/etc/passwd"),
		"404", request("/latest/%252e%252e/"), "404", request("/latest/meta-data/instance-id/"+strings.Repeat("../", 30)+"etc/passwd"), "404", request("/proc/self/environ")),
	wire("NUL and broken escapes in the target", "`%00`, a raw NUL, `%zz`, `%`, a tab", "404 or 400",
		"404", request("/latest/meta-data/instance-id%00"), "404", request("/latest/user-data%00.txt"), "400 close", request("/latest/\x00"),
		"400 close", request("/latest/%zz"), "400 close", request("/latest/%"), "400 close", request("/latest/%4"), "400 close", request("/latest\t/"), "400 close", request("/latest /")),
	wire("parameters of paths", "`;x`, `,x`, `.json`, `~`, a query with a path", "404; the query is no path",
		"404", request("/latest/meta-data/instance-id;x=y"), "404", request("/latest/meta-data/instance-id,x"), "404", request("/latest/meta-data/instance-id.json"),
		"404", request("/latest/meta-data/instance-id~"), "200", request("/latest/?path=/latest/user-data"), "404", request("/LATEST/META-DATA/")),
	wire("heads at and beyond the limit", "a target, a header, many headers around 16 KiB and of 1 MiB", "an answer up to 16 KiB, then 400",
		"404", request("/"+strings.Repeat("x", 16000)), "400 close", request("/"+strings.Repeat("x", 16384)), "400 close", request("/"+strings.Repeat("x", 1<<20)),
		"400 close", request("/", "X: "+strings.Repeat("x", 1<<20)+"\r\n"), "400 close", request("/", strings.Repeat("X: y\r\n", 20000)),
		"200", request(strings.Repeat("/", 16000)), "400 close", request(strings.Repeat("/", 20000))),
	wire("methods", "TRACE, TRACK, DEBUG, PROPFIND, a method of 10 KiB, with odd bytes", "405 or 400, nothing is echoed",
		"405", "TRACE / HTTP/1.1\r\n"+hostLine+"\r\n", "405", "TRACK / HTTP/1.1\r\n"+hostLine+"\r\n", "405", "DEBUG / HTTP/1.1\r\n"+hostLine+"\r\n",
		"405", "PROPFIND / HTTP/1.1\r\n"+hostLine+"Depth: infinity\r\n\r\n", "405", strings.Repeat("A", 10<<10)+" / HTTP/1.1\r\n"+hostLine+"\r\n",
		"400 close", "G\x00T / HTTP/1.1\r\n"+hostLine+"\r\n", "400 close", "GET@ / HTTP/1.1\r\n"+hostLine+"\r\n", "400 close", " GET / HTTP/1.1\r\n"+hostLine+"\r\n"),
	wire("upgrades", "h2c, websocket, TLS in the connection", "the answer of HTTP/1.1; what follows is 400",
		"200", request("/latest/", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"),
		"200", request("/latest/", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n"),
		"200 400 close", request("/latest/", "Connection: Upgrade\r\nUpgrade: h2c\r\n")+"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
	wire("ranges and conditions", "1,000 ranges, `If-None-Match: *`, `TE: trailers`, gzip", "the whole value, once",
		"200", request(idPath, "Range: bytes="+strings.Repeat("0-,", 1000)+"0-\r\n"),
		"200", request(idPath, "If-None-Match: *\r\nTE: trailers\r\nAccept-Encoding: gzip\r\n")),
	{name: "headers that are answered back", by: client, tries: "line breaks and markup in target, Host and headers", holds: "no byte of the request in any answer", run: func(w *world) error {
		const mark = "evilmark"
		for _, stream := range []string{request("/latest/" + mark), request("/latest/%0d%0aSet-Cookie:" + mark), request("/latest/<script>" + mark), request("/latest/", "X: "+mark+"\r\n"),
			"GET / HTTP/1.1\r\nHost: " + mark + ".test\r\n\r\n", mark + " / HTTP/1.1\r\n" + hostLine + "\r\n", "GET http://" + mark + ".test/ HTTP/1.1\r\n" + hostLine + "\r\n", request("/latest/%" + mark)} {
			answer, err := server.say(door, stream)
			if err != nil || !strings.HasPrefix(answer, "HTTP/1.1 ") || strings.Contains(answer, mark) {
				return fmt.Errorf("%q: %q, %w", stream, answer, err)
			}
		}
		return nil
	}},
	{name: "every byte in every place", by: client, tries: "CR, LF, NUL, VT, DEL, 0x80, 0xff at each place of a request, where tokens are required", holds: "401, 400, 403 or silence; never a value", run: func(w *world) error {
		stream := get(idPath, "")
		for at := range len(stream) + 1 {
			for _, b := range []string{"\r", "\n", "\x00", "\x0b", "\x7f", "\x80", "\xff"} {
				if err := w.deny(strictDoor, stream[:at]+b+stream[at:]); err != nil {
					return err
				}
			}
		}
		return nil
	}},
}

// wire is an attack with streams: a pattern of status codes, a stream, a pattern, a stream, …
func wire(name, tries, holds string, pairs ...string) attack {
	return attack{name: name, by: client, tries: tries, holds: holds, run: func(w *world) error {
		for i := 0; i < len(pairs); i += 2 {
			if err := w.expect(door, pairs[i+1], pairs[i]); err != nil {
				return err
			}
		}
		return w.expect(door, plainGet, "200")
	}}
}
