package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/imds/edge"
	"github.com/imdsfs/imdsfs/source/overlay"
	"github.com/imdsfs/imdsfs/source/problem"
)

const (
	maxBody       = 2 << 20 // bytes: a leaf has at most 1 MiB, and base64 makes 1.4 of it
	maxHeader     = 16 << 10
	adminTimeout  = 30 * time.Second
	headerTimeout = 5 * time.Second
	idleTimeout   = 10 * time.Second
	stopGrace     = 500 * time.Millisecond // for requests under way
)

// Serve answers the admin API (contrib/openapi.yaml) on a Unix socket until ctx ends. Only root and
// the daemon's own user are answered, whatever the socket's mode has become. It has at most maxConns
// connections, 0 for [edge.DefaultMaxPortConns]; then the one unused for longest is closed.
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
		ErrorLog:          log.New(io.Discard, "", 0), // it tells of nothing but what clients do wrong
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			return withCaller(ctx, callerOf(nc))
		},
	}
	// A request for an upgrade is answered while it ends the daemon.
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

// A caller is the user at the other end of the socket, as the kernel says.
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

// callerIn is who sent the request; nobody who is allowed if it did not come through Serve.
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
	handle := func(pattern string, h func(r *http.Request, by string) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			result, err := h(r, callerIn(r).String())
			if err != nil {
				// A client that still writes when the connection is closed does not read why.
				io.Copy(io.Discard, r.Body)
				problem := problemOf(err)
				answer(w, problem.status, problem)
				return
			}
			answer(w, http.StatusOK, result)
		})
	}
	handle("GET /v1/status", func(*http.Request, string) (any, error) { return c.status(), nil })
	handle("POST /v1/kinds", func(r *http.Request, _ string) (any, error) {
		var asked paths
		if err := decode(r.Body, &asked); err != nil {
			return nil, err
		}
		return kinds{c.kinds(asked.Paths)}, nil
	})
	handle("GET /v1/options", func(*http.Request, string) (any, error) { return optionList{c.Options()}, nil })
	handle("PATCH /v1/options", func(r *http.Request, by string) (any, error) {
		var changes map[string]string
		if err := decode(r.Body, &changes); err != nil {
			return nil, err
		}
		err := c.SetOptions(changes, by)
		return optionList{c.Options()}, err
	})
	handle("DELETE /v1/options", func(r *http.Request, by string) (any, error) {
		query, err := queryOf(r.URL.RawQuery, "name")
		if err != nil {
			return nil, err
		}
		err = c.ResetOptions(query["name"], by)
		return optionList{c.Options()}, err
	})
	handle("GET /v1/overlay", func(*http.Request, string) (any, error) { return c.changes(), nil })
	handle("POST /v1/overlay", func(r *http.Request, by string) (any, error) {
		var edit Edit
		if err := decode(r.Body, &edit); err != nil {
			return nil, err
		}
		warnings, err := c.apply(edit, by)
		if err != nil {
			return nil, err
		}
		list := c.changes()
		for _, w := range warnings {
			list.Warnings = append(list.Warnings, w.String())
		}
		return list, nil
	})
	handle("DELETE /v1/overlay", func(r *http.Request, by string) (any, error) { return c.resetBy(r.URL.RawQuery, by) })
	handle("POST /v1/reload", func(r *http.Request, _ string) (any, error) {
		change, err := c.Reload(r.Context())
		return ReloadedBy(change), err
	})
	handle("POST /v1/upgrade", func(r *http.Request, _ string) (any, error) {
		var u Upgrade
		if err := decode(r.Body, &u); err != nil {
			return nil, err
		}
		if err := c.Upgrade(r.Context(), u.Program, callerIn(r).uid); err != nil {
			return nil, refuse(CodeUnsupported, "not upgraded: %v", err)
		}
		return struct{}{}, nil
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !callerIn(r).allowed() {
			answer(w, http.StatusForbidden, Problem{Code: CodeUnauthorized, Message: "only root and the daemon's own user may use this socket"})
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

// queryOf is a query that has only these parameters. Anything else is refused: a slip of the pen must not read as "all".
func queryOf(query string, parameters ...string) (url.Values, error) {
	values, err := url.ParseQuery(query)
	for name := range values {
		if !slices.Contains(parameters, name) {
			err = errors.New("unknown")
		}
	}
	if err != nil {
		return nil, &badRequest{http.StatusBadRequest, "the query has other parameters than " + strings.Join(parameters, " and ") + "; see contrib/openapi.yaml"}
	}
	return values, nil
}

func (c *Control) resetBy(query, by string) (any, error) {
	q, err := queryOf(query, "kind", "instance")
	if err != nil {
		return nil, err
	}
	if len(q["instance"]) > 1 {
		return nil, &badRequest{http.StatusBadRequest, "the query names more than one instance"}
	}
	var kinds []overlay.Kind
	for _, k := range q["kind"] {
		kinds = append(kinds, overlay.Kind(k))
	}
	var instance *string
	if q.Has("instance") {
		instance = &q["instance"][0]
	}
	forgotten, err := c.Reset(kinds, instance, by)
	if err != nil {
		return nil, err
	}
	list := c.changes()
	list.Forgotten = forgotten
	return list, nil
}

type optionList struct {
	Options []Option `json:"options"`
}

// An Edit is the body of POST /v1/overlay.
type Edit struct {
	Kind   overlay.Kind `json:"kind"` // "tags" or "values"
	Action Action       `json:"action"`
	Name   string       `json:"name"`            // tag key, or path relative to a version
	Value  []byte       `json:"value,omitempty"` // base64; for set
}

func (c *Control) apply(e Edit, by string) (problem.Faults, error) {
	switch e.Kind {
	case overlay.Tags:
		return c.ChangeTag(e.Action, e.Name, e.Value, by)
	case overlay.Values:
		return c.ChangeValue(e.Action, e.Name, e.Value, by)
	}
	return nil, refuse(CodeInvalidValue, "'%.80s' is no kind of change. The kinds are tags and values", e.Kind)
}

// An Upgrade is the body of POST /v1/upgrade.
type Upgrade struct {
	Program string `json:"program"` // absolute path
}

// decode reads one JSON value and nothing behind it.
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

// A Problem is the body of every answer that is not 200.
type Problem struct {
	status  int
	Code    string   `json:"code"`
	Message string   `json:"message"`
	Hint    string   `json:"hint,omitempty"`   // what to do
	Faults  []string `json:"faults,omitempty"` // of a reload, each with its place
}

func problemOf(err error) Problem {
	var refused *Error
	var bad *badRequest
	var faults problem.Faults
	switch {
	case errors.As(err, &refused) && refused.Code == CodeUnauthorized:
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
	json.NewEncoder(w).Encode(body) // an error is the client's: it has gone
}
