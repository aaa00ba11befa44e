package main

import (
	"fmt"
	"regexp"
	"strings"
)

// hostAttacks are those of a web page whose name was pointed at the service (DNS rebinding): its requests come from this
// machine, and its browser sends the page's name.
var hostAttacks = []attack{
	hostForms("foreign names", "evil.test", "evil.test:80", "EVIL.TEST", "evil.test.", "xn--evil-9la.test", "a.b.c.d.evil.test", "-", "_"),
	hostForms("the address in a foreign name", "169.254.169.254.evil.test", "169.254.169.254.nip.io", "127.0.0.1.nip.io", "169-254-169-254.sslip.io", "a9fea9fe.nip.io", "fd00-ec2--254.sslip.io"),
	hostForms("own names inside foreign ones", "localhost.evil.test", "instance-data.evil.test", "evil.localhost", "instance-data.ec2.internal.evil.test", "evil.instance-data.ec2.internal", "localhostevil", "evil-localhost"),
	hostForms("odd spellings of the address", "2852039166", "0xA9FEA9FE", "0xa9.0xfe.0xa9.0xfe", "0251.0376.0251.0376", "169.254.43518", "169.16689662", "169.254.169.254.1", "169.254.169", "169.254.169.0254", "169。254。169。254"),
	hostForms("user information", "169.254.169.254@evil.test", "user@169.254.169.254", "user:pass@169.254.169.254", "evil.test#169.254.169.254", "evil.test/169.254.169.254", "evil.test?169.254.169.254", `evil.test\169.254.169.254`),
	hostForms("IPv6 with names in a zone, and broken brackets", "[fe80::1%25eth0/evil.test]", "[fe80::1%evil test]", "[fe80::1%25@evil.test]", "[fe80::1%]", "[fe80::1%25%00]evil", "[::1", "::1]", "[]", "[evil.test]", "[::1]evil.test", "[::1]:80evil", "[127.0.0.1]"),
	hostForms("odd ports", "169.254.169.254:80:80", "169.254.169.254:evil", "169.254.169.254:-1", "169.254.169.254:+80", "169.254.169.254:123456", "localhost:80@evil.test", "localhost:80.evil.test", "localhost :80"),
	hostForms("several final dots", "localhost..", "169.254.169.254..", ".", "..", ".localhost", "instance-data..ec2.internal"),
	hostForms("lists of names", "localhost,evil.test", "evil.test,localhost", "localhost evil.test", "localhost;evil.test", "localhost\tevil.test"),
	hostForms("control characters", "localhost\x00.evil.test", "localhost\revil.test", "localhost\x0b", "localhost\x7f", "\x00", "evil.test\x00localhost"),
	hostForms("bytes beyond ASCII", "lоcalhost", "locaſhost", "loc\xffalhost", "169.254.169.２５４", "\xe2\x80\x8blocalhost"),
	hostForms("very long names", strings.Repeat("a", 254), strings.Repeat("a.", 4000)+"localhost", "localhost"+strings.Repeat(".", 8000), strings.Repeat("9", 10000)),
	{name: "an absolute target with a foreign authority", by: page, tries: "`GET http://evil.test/…` with a good Host", holds: "the authority counts: 403 or 400", run: func(w *world) error {
		for _, authority := range []string{"evil.test", "evil.test:80", "169.254.169.254.evil.test", "user@169.254.169.254", "", "169.254.169.254@evil.test", "%31%36%39.254.169.254", "2852039166", "[fe80::1%25eth0@evil.test]"} {
			for _, scheme := range []string{"http://", "HTTP://", "https://", "ftp://", "//"} {
				if scheme == "//" { // an empty segment, not an authority
					continue
				}
				if err := w.deny(door, "GET "+scheme+authority+idPath+" HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"); err != nil {
					return err
				}
			}
		}
		return w.expect(door, "GET http://169.254.169.254"+idPath+" HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", "200")
	}},
	{name: "a good absolute target with a foreign Host", by: page, tries: "`GET http://169.254.169.254/…` with `Host: evil.test`", holds: "RFC 9112: the target counts, as no browser sends one; without it 403", run: func(w *world) error {
		return first(
			w.expect(door, "GET http://169.254.169.254/latest/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", "200|403"),
			w.expect(door, "GET /latest/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", "403"))
	}},
	{name: "two Host headers", by: page, tries: "a good and a foreign one, in both orders, equal, and with spaces", holds: "400, connection closed", run: func(w *world) error {
		for _, hosts := range []string{"Host: localhost\r\nHost: evil.test", "Host: evil.test\r\nHost: localhost", "Host: localhost\r\nHost: localhost", "Host: localhost\r\nhost: evil.test", "Host : localhost\r\nHost: evil.test", "Host: localhost\r\n Host: evil.test"} {
			if err := w.expect(door, "GET "+idPath+" HTTP/1.1\r\n"+hosts+"\r\n\r\n", "400 close"); err != nil {
				return err
			}
		}
		return nil
	}},
	{name: "no Host", by: page, tries: "none and an empty one in HTTP/1.1; a foreign one in HTTP/1.0", holds: "400; 403", run: func(w *world) error {
		return first(
			w.expect(door, "GET "+idPath+" HTTP/1.1\r\n\r\n", "400.*"),
			w.expect(door, "GET "+idPath+" HTTP/1.1\r\nHost:\r\n\r\n", "400.*"),
			w.expect(door, "GET "+idPath+" HTTP/1.1\r\nHost:   \t \r\n\r\n", "400.*"),
			w.expect(door, "GET "+idPath+" HTTP/1.0\r\nHost: evil.test\r\n\r\n", "403 close"))
	}},
	{name: "names in other headers", by: page, tries: "`X-Forwarded-Host`, `Forwarded`, `X-Host` with a good name beside a foreign Host", holds: "403: only Host counts", run: func(w *world) error {
		for _, h := range []string{"X-Forwarded-Host: localhost", "Forwarded: host=localhost", "X-Host: localhost", "X-Original-Host: localhost", "Origin: http://localhost", "Referer: http://localhost/"} {
			if err := w.deny(door, "GET "+idPath+" HTTP/1.1\r\nHost: evil.test\r\n"+h+"\r\n\r\n"); err != nil {
				return err
			}
		}
		return nil
	}},
	{name: "requests of a page to the address itself", by: page, tries: "a CORS preflight, a form's POST, `fetch` with Origin", holds: "no Access-Control header in any answer, so the page reads nothing; a PUT needs a preflight", run: func(w *world) error {
		for _, request := range []string{
			"OPTIONS /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nOrigin: http://evil.test\r\nAccess-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: x-aws-ec2-metadata-token-ttl-seconds\r\n\r\n",
			"GET " + idPath + " HTTP/1.1\r\nHost: 169.254.169.254\r\nOrigin: http://evil.test\r\n\r\n",
			"POST /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nOrigin: http://evil.test\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\nx",
			"OPTIONS " + idPath + " HTTP/1.1\r\nHost: 169.254.169.254\r\nOrigin: http://evil.test\r\nAccess-Control-Request-Private-Network: true\r\n\r\n",
		} {
			answer, err := server.say(door, request)
			if err != nil || !strings.HasPrefix(answer, "HTTP/1.1 ") {
				return fmt.Errorf("%q: %q, %w", request, answer, err)
			}
			if strings.Contains(strings.ToLower(answer), "access-control-") || tokenPattern.MatchString(answer) {
				return fmt.Errorf("%q: %q", request, answer)
			}
		}
		return nil
	}},
}

// hostForms is an attack with foreign Hosts, for data and for a token, on IPv4 and IPv6.
func hostForms(name string, hosts ...string) attack {
	shown := make([]string, 0, len(hosts))
	for _, h := range hosts[:min(len(hosts), 3)] {
		if strings.ContainsFunc(h, func(r rune) bool { return r < ' ' || r > '~' }) {
			h = strings.Trim(fmt.Sprintf("%+q", h), `"`)
		}
		shown = append(shown, "`"+h[:min(len(h), 40)]+"`")
	}
	return attack{name: name, by: page, tries: fmt.Sprintf("%d Hosts such as %s", len(hosts), strings.Join(shown, ", ")), holds: "403 or 400, no value and no token", run: func(w *world) error {
		for _, host := range hosts {
			for _, address := range []string{door, door6, strictDoor} {
				if err := first(
					w.deny(address, "GET "+idPath+" HTTP/1.1\r\nHost: "+host+"\r\n\r\n"),
					w.deny(address, strings.Replace(putToken("60"), "instance-data", host, 1))); err != nil {
					return err
				}
			}
		}
		return w.expect(door, strings.Replace(putToken("60"), "instance-data", "169.254.169.254", 1), "200")
	}}
}

// expect checks that the status codes of the answers to a stream match the whole pattern.
func (w *world) expect(address, stream, pattern string) error {
	answer, err := server.say(address, stream)
	if err != nil {
		return fmt.Errorf("%.300q: %w", stream, err)
	}
	got, err := codes(answer)
	if err == nil && !regexp.MustCompile("^(?:"+pattern+")$").MatchString(got) {
		err = fmt.Errorf("got %q, want %s", got, pattern)
	}
	if err != nil {
		return fmt.Errorf("%.300q: %w", stream, err)
	}
	return nil
}

var denied = regexp.MustCompile(`^(40[0-9]( close)? ?)*$`)

// deny checks that a stream gets only refusals: no value, no secret, no token.
func (w *world) deny(address, stream string) error {
	answer, err := server.say(address, stream)
	if err != nil {
		return fmt.Errorf("%.300q: %w", stream, err)
	}
	got, err := codes(answer)
	switch {
	case err != nil:
	case !denied.MatchString(got):
		err = fmt.Errorf("got %q, want refusals", got)
	case tokenPattern.MatchString(answer):
		err = fmt.Errorf("a token in %q", answer)
	case strings.Contains(answer, "i-0"):
		err = fmt.Errorf("a value in %q", answer)
	default:
		err = w.secretIn(answer)
	}
	if err != nil {
		return fmt.Errorf("%s: %.300q: %w", address, stream, err)
	}
	return nil
}
