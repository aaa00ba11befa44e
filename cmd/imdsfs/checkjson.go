package main

import (
	"strconv"
	"strings"

	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

// The documents of check --json. Lists are never null.
type (
	checkDocument struct {
		File     string         `json:"file"`
		Good     bool           `json:"good"`
		Faults   []checkFault   `json:"faults"`
		Warnings []checkFault   `json:"warnings"`
		Settings []checkSetting `json:"settings"`
		Leaves   []checkLeaf    `json:"leaves"`
	}
	checkFault struct {
		File    string `json:"file"`           // or another place, such as "the tree"
		Line    int    `json:"line,omitempty"` // from 1
		Key     string `json:"key,omitempty"`
		Message string `json:"message"`
		Hint    string `json:"hint,omitempty"`
	}
	checkSetting struct {
		Key    string `json:"key"`
		Value  string `json:"value"`
		Origin string `json:"origin"`
	}
	checkLeaf struct {
		Path   string  `json:"path"` // relative to a version
		Value  *string `json:"value"`
		Secret bool    `json:"secret"`
		Origin string  `json:"origin"`
	}
)

func (r *checked) document() *checkDocument {
	d := &checkDocument{
		File: r.path, Good: r.snap != nil, Faults: faultDocuments(r.faults), Warnings: faultDocuments(r.warnings),
		Settings: []checkSetting{}, Leaves: []checkLeaf{},
	}
	if r.err != nil {
		d.Faults = append(d.Faults, checkFault{File: r.path, Message: r.err.Error()})
	}
	if r.snap == nil {
		return d
	}
	for _, s := range r.settings() {
		d.Settings = append(d.Settings, checkSetting{s.Key, s.Value, s.Origin.String()})
	}
	latest, _ := r.snap.View(tree.Latest)
	for name, v := range latest.Walk() {
		if v.IsDir() {
			continue
		}
		leaf := checkLeaf{Path: name, Secret: v.Secret(), Origin: v.Origin().String()}
		if !v.Secret() {
			text := string(v.Bytes())
			leaf.Value = &text
		}
		d.Leaves = append(d.Leaves, leaf)
	}
	return d
}

func faultDocuments(faults problem.Faults) []checkFault {
	all := make([]checkFault, len(faults))
	for i, f := range faults {
		all[i] = checkFault{File: f.Place, Key: f.Key, Message: f.Text, Hint: f.Hint}
		if at := strings.LastIndexByte(f.Place, ':'); at >= 0 {
			if line, err := strconv.Atoi(f.Place[at+1:]); err == nil {
				all[i].File, all[i].Line = f.Place[:at], line
			}
		}
	}
	return all
}
