package control

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/source/overlay"
	"github.com/imdsfs/imdsfs/source/problem"
)

// A handler answers one request of the user by. It returns the body of the answer.
type handler func(r *http.Request, by string) (any, error)

// routes are the requests of the admin API (contrib/openapi.yaml).
func (c *Control) routes() map[string]handler {
	return map[string]handler{
		"GET /v1/status":     func(*http.Request, string) (any, error) { return c.status(), nil },
		"POST /v1/kinds":     c.postKinds,
		"GET /v1/options":    func(*http.Request, string) (any, error) { return optionList{c.options()}, nil },
		"PATCH /v1/options":  c.patchOptions,
		"DELETE /v1/options": c.deleteOptions,
		"GET /v1/overlay":    func(*http.Request, string) (any, error) { return c.changes(), nil },
		"POST /v1/overlay":   c.postOverlay,
		"DELETE /v1/overlay": c.deleteOverlay,
		"POST /v1/reload":    c.postReload,
		"POST /v1/upgrade":   c.postUpgrade,
	}
}

func (c *Control) postKinds(r *http.Request, _ string) (any, error) {
	var asked paths
	if err := decode(r.Body, &asked); err != nil {
		return nil, err
	}
	return kinds{c.kinds(asked.Paths)}, nil
}

type optionList struct {
	Options []Option `json:"options"`
}

func (c *Control) patchOptions(r *http.Request, by string) (any, error) {
	var changes map[string]string
	if err := decode(r.Body, &changes); err != nil {
		return nil, err
	}
	err := c.setOptions(changes, by)
	return optionList{c.options()}, err
}

func (c *Control) deleteOptions(r *http.Request, by string) (any, error) {
	query, err := queryOf(r.URL.RawQuery, "name")
	if err != nil {
		return nil, err
	}
	err = c.resetOptions(query["name"], by)
	return optionList{c.options()}, err
}

// An Edit is the body of POST /v1/overlay.
type Edit struct {
	Kind   overlay.Kind `json:"kind"` // "tags" or "values"
	Action Action       `json:"action"`
	Name   string       `json:"name"`            // tag key, or path relative to a version
	Value  []byte       `json:"value,omitempty"` // base64; for set
}

func (c *Control) postOverlay(r *http.Request, by string) (any, error) {
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
}

func (c *Control) apply(e Edit, by string) (problem.Faults, error) {
	switch e.Kind {
	case overlay.Tags:
		return c.changeTag(e.Action, e.Name, e.Value, by)
	case overlay.Values:
		return c.changeValue(e.Action, e.Name, e.Value, by)
	}
	return nil, refuse(codeInvalidValue, "'%.80s' is no kind of change. The kinds are tags and values", e.Kind)
}

func (c *Control) deleteOverlay(r *http.Request, by string) (any, error) {
	q, err := queryOf(r.URL.RawQuery, "kind", "instance")
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
	forgotten, err := c.reset(kinds, instance, by)
	if err != nil {
		return nil, err
	}
	list := c.changes()
	list.Forgotten = forgotten
	return list, nil
}

func (c *Control) postReload(r *http.Request, _ string) (any, error) {
	change, err := c.Reload(r.Context())
	return ReloadedBy(change), err
}

// An Upgrade is the body of POST /v1/upgrade.
type Upgrade struct {
	Program string `json:"program"` // absolute path
}

func (c *Control) postUpgrade(r *http.Request, _ string) (any, error) {
	var u Upgrade
	if err := decode(r.Body, &u); err != nil {
		return nil, err
	}
	if err := c.Upgrade(r.Context(), u.Program, callerIn(r).uid); err != nil {
		return nil, refuse(codeUnsupported, "not upgraded: %v", err)
	}
	return struct{}{}, nil
}

// queryOf parses a query and refuses parameters other than these: a typing error must not mean "all".
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
