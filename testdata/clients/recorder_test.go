package clients

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

// linkLocal is where unmodified clients look for the service.
const linkLocal = "169.254.169.254:80"

// An exchange is a request that a client made, and the status it got.
type exchange struct {
	method, target string
	ttl            string // of the token that is asked for; "" without the header
	token          bool   // the header is there
	status         int
}

// String is a line of a golden file.
func (e exchange) String() string {
	line := e.method + " " + e.target
	if e.ttl != "" {
		line += " ttl=" + e.ttl
	}
	if e.token {
		line += " token"
	}
	return fmt.Sprintf("%s %d", line, e.status)
}

// recordExchanges is a process of its own in the clients' network namespace. It passes every byte
// between linkLocal and the daemon unchanged, and appends each exchange to a file before the client
// sees the answer. It prints a line when it listens, and ends with its standard input.
func recordExchanges(daemon, file string) error {
	log, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp4", linkLocal)
	if err != nil {
		return err
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println("listening")
	for {
		client, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			if err := pass(client, daemon, log); err != nil {
				fmt.Fprintln(log, err)
			}
		}()
	}
}

// pass serves one connection. Its end, whoever makes it, is passed on too.
func pass(client net.Conn, daemon string, log io.Writer) error {
	defer client.Close()
	server, err := net.Dial("tcp4", daemon)
	if err != nil {
		return err
	}
	asked := make(chan *http.Request, 16)
	go func() {
		defer server.Close()
		defer close(asked)
		tap := &tap{from: client, to: server}
		requests := bufio.NewReader(tap)
		for {
			req, err := http.ReadRequest(requests)
			if err != nil { // the end, or what is not HTTP
				tap.Write(nil)
				return
			}
			asked <- req
			tap.Write(nil)
			io.Copy(tap, req.Body)
		}
	}()
	defer server.Close()
	tap := &tap{from: server, to: client}
	answers := bufio.NewReader(tap)
	for {
		if _, err := answers.Peek(1); err != nil {
			return nil // the daemon closed
		}
		req, ok := <-asked
		if !ok {
			return fmt.Errorf("an answer to what is not a request")
		}
		resp, err := http.ReadResponse(answers, req)
		if err != nil {
			return fmt.Errorf("%s %s: the answer is not HTTP: %w", req.Method, req.RequestURI, err)
		}
		_, token := req.Header["X-Aws-Ec2-Metadata-Token"]
		e := exchange{
			method: req.Method,
			target: req.RequestURI,
			ttl:    req.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"),
			token:  token,
			status: resp.StatusCode,
		}
		fmt.Fprintln(log, e)
		tap.Write(nil)
		io.Copy(tap, resp.Body)
	}
}

// A tap reads from one side and holds what it has read until it is written to, whatever is written: so the
// other side gets the very bytes, when whoever reads them here has looked at them.
type tap struct {
	from, to net.Conn
	held     []byte
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.from.Read(p)
	t.held = append(t.held, p[:n]...)
	return n, err
}

func (t *tap) Write(p []byte) (int, error) {
	if len(t.held) > 0 {
		if _, err := t.to.Write(t.held); err != nil {
			return 0, err
		}
		t.held = t.held[:0]
	}
	return len(p), nil
}

// parseExchange reads a line of exchange.String.
func parseExchange(line string) (exchange, error) {
	var e exchange
	fields := strings.Fields(line)
	if len(fields) < 3 {
		return e, fmt.Errorf("not an exchange: %s", line)
	}
	e.method, e.target = fields[0], fields[1]
	for _, field := range fields[2 : len(fields)-1] {
		if ttl, ok := strings.CutPrefix(field, "ttl="); ok {
			e.ttl = ttl
		}
		e.token = e.token || field == "token"
	}
	if _, err := fmt.Sscan(fields[len(fields)-1], &e.status); err != nil {
		return e, fmt.Errorf("not an exchange: %s", line)
	}
	return e, nil
}
