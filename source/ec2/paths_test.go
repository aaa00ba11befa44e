package ec2

import (
	"errors"
	"testing"
)

func TestPathsThatPeopleType(t *testing.T) {
	for path, want := range map[string]struct{ absolute, everywhere string }{
		"mac":                           {"/latest/meta-data/mac", "meta-data/mac"},
		"iam/info/":                     {"/latest/meta-data/iam/info/", "meta-data/iam/info"},
		"meta-data/mac":                 {"/latest/meta-data/mac", "meta-data/mac"},
		"meta-data":                     {"/latest/meta-data", "meta-data"},
		"meta-data//mac":                {"/latest/meta-data//mac", "meta-data//mac"},
		"dynamic/fws":                   {"/latest/dynamic/fws", "dynamic/fws"},
		"user-data":                     {"/latest/user-data", "user-data"},
		"user-data-file":                {"/latest/meta-data/user-data-file", "meta-data/user-data-file"},
		"/latest/meta-data/mac":         {"/latest/meta-data/mac", "meta-data/mac"},
		"/latest/meta-data/meta-data/x": {"/latest/meta-data/meta-data/x", "meta-data/meta-data/x"},
		"/latest/user-data/":            {"/latest/user-data/", "user-data"},
		"/meta-data/iam":                {"/meta-data/iam", "meta-data/iam"},
		"/2021-03-23/meta-data/mac":     {"/2021-03-23/meta-data/mac", "-"},
		"/run/metadata/latest/x":        {"/run/metadata/latest/x", "-"},
		"latest/meta-data/mac":          {"/latest/meta-data/mac", "meta-data/mac"},
		"2021-03-23/meta-data/mac":      {"/2021-03-23/meta-data/mac", "-"},
		"/latest":                       {"/latest", ""},
		"/":                             {"/", ""},
		"":                              {"/latest/meta-data/", "meta-data"},
	} {
		if got := Absolute(path); got != want.absolute {
			t.Errorf("%q is %q, want %q", path, got, want.absolute)
		}
		got, err := InEveryVersion(path)
		if err != nil {
			got = "-"
		}
		if got != want.everywhere || err != nil && !errors.Is(err, errOneVersion) {
			t.Errorf("%q is %q in every version, want %q (%v)", path, got, want.everywhere, err)
		}
	}
}
