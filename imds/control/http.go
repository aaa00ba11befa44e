package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/imds/edge"
	"github.com/imdsfs/imdsfs/source/problem"
)

const (
	maxBody       = 2 << 20 // bytes: a leaf has at most 1 MiB, and base64 makes 1.4 of it
	maxHeader     = 16 << 10
	adminTimeout  = 30 * time.Second
	headerTimeout = 5 * time.Second
	idleTimeout   = 10 * time.Second
	stopGrace     = 500 * time.Millisecond // for requests in progress
)

// Serve answers the admin API (contrib/openapi.yaml) on a Unix socket until ctx ends. It answers only root and the daemon's
// own user, whatever the socket's mode is. Above maxConns connections, 0 for [edge.DefaultMaxPortConns], the one unused for
// longest is closed.
func (c *Control) Serve(ctx context.Context, listener net.Listener, maxConns int) error {
	port := edge.Guard(listener, edge.PortConfig{MaxConns: maxConns})
	server := &http.Server{
		Handler:           c.Handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       adminTimeout,
		WriteTimeout:      adminTimeout,
		IdleTimeout:       idleTimeout,
		ConnState:         port.ConnState,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(io.Discard, "", 0), // it only reports what clients do wrong
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			return withCaller(ctx, callerOf(nc))
		},
	}
	// The request for an upgrade is still answered while the upgrade ends the daemon.
	ended := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(ended)
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer cancel()
		if server.Shutdown(limited) != nil {
			server.Close()
		}
	})()
	if err := server.Serve(port); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-ended
	return nil
}

type callerKey struct{}

func withCaller(ctx context.Context, who caller) context.Context {
	return context.WithValue(ctx, callerKey{}, who)
}

// A caller is the user at the other end of the socket, according to the kernel.
type caller struct {
	uid uint32
	err error
}

func callerOf(nc net.Conn) caller {
	socket, ok := nc.(syscall.Conn)
	if !ok || nc.LocalAddr().Network() != "unix" {
		return caller{err: errors.New("not a Unix socket")}
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return caller{err: err}
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) { cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, inner); err != nil {
		return caller{err: err}
	}
	return caller{uid: cred.Uid}
}

// callerIn is the user who sent a request. If it did not come through Serve the caller is unknown, and not allowed.
func callerIn(r *http.Request) caller {
	if who, ok := r.Context().Value(callerKey{}).(caller); ok {
		return who
	}
	return caller{err: errors.New("not known")}
}

func (c caller) allowed() bool { return c.err == nil && (c.uid == 0 || int(c.uid) == unix.Geteuid()) }

func (c caller) String() string { return "uid " + strconv.FormatUint(uint64(c.uid), 10) }

// Handler is the admin API. Requests must come through Serve, which knows the caller.
func (c *Control) Handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, handle := range c.routes() {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			result, err := handle(r, callerIn(r).String())
			if err != nil {
				// A client that still writes when the connection is closed does not read the error.
				io.Copy(io.Discard, r.Body)
				problem := problemOf(err)
				answer(w, problem.status, problem)
				return
			}
			answer(w, http.StatusOK, result)
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !callerIn(r).allowed() {
			answer(w, http.StatusForbidden, Problem{Code: codeUnauthorized, Message: "only root and the daemon's own user may use this socket"})
			return
		}
		if _, pattern := mux.Handler(r); pattern == "" {
			answer(w, http.StatusNotFound, Problem{Code: "NotFound", Message: "there is no such path, or not with this method; see contrib/openapi.yaml"})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		mux.ServeHTTP(w, r)
	})
}

// decode reads exactly one JSON value.
func decode(body io.Reader, into any) error {
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return &badRequest{http.StatusRequestEntityTooLarge, "the body is longer than " + strconv.Itoa(maxBody) + " bytes"}
	}
	// The decoder's own message may quote the body.
	return &badRequest{http.StatusBadRequest, "the body is not the JSON that belongs here; see contrib/openapi.yaml"}
}

type badRequest struct {
	status int
	text   string
}

func (e *badRequest) Error() string { return e.text }

// A Problem is the body of every answer with a status other than 200.
type Problem struct {
	status  int
	Code    string   `json:"code"`
	Message string   `json:"message"`
	Hint    string   `json:"hint,omitempty"`   // what to do
	Faults  []string `json:"faults,omitempty"` // of a reload, each with its place
}

func problemOf(err error) Problem {
	var refused *refusal
	var bad *badRequest
	var faults problem.Faults
	switch {
	case errors.As(err, &refused) && refused.Code == codeUnauthorized:
		return Problem{status: http.StatusForbidden, Code: refused.Code, Message: refused.Message}
	case errors.As(err, &refused):
		return Problem{status: http.StatusBadRequest, Code: refused.Code, Message: refused.Message}
	case errors.As(err, &bad):
		return Problem{status: bad.status, Code: "BadRequest", Message: bad.text}
	case errors.As(err, &faults):
		p := Problem{status: http.StatusUnprocessableEntity, Code: "InvalidInput", Message: "the input is faulty: still serving what was there before"}
		for _, f := range faults {
			p.Faults = append(p.Faults, f.String())
		}
		return p
	}
	p := Problem{status: http.StatusInternalServerError, Code: "InternalError", Message: err.Error()}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		p.Hint = "make room there and try again: nothing is changed"
	}
	return p
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) // it fails if the client has gone
}
