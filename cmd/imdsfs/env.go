package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/source/problem"
)

// attributes are the attributes of afterburn for EC2 (coreos.github.io/afterburn/usage/attributes) and their paths. A name
// after # is a key of the JSON document at the path.
var attributes = []struct{ name, path string }{
	{"INSTANCE_ID", "/latest/meta-data/instance-id"},
	{"INSTANCE_TYPE", "/latest/meta-data/instance-type"},
	{"IPV4_LOCAL", "/latest/meta-data/local-ipv4"},
	{"IPV4_PUBLIC", "/latest/meta-data/public-ipv4"},
	{"IPV6", "/latest/meta-data/ipv6"},
	{"AVAILABILITY_ZONE", "/latest/meta-data/placement/availability-zone"},
	{"AVAILABILITY_ZONE_ID", "/latest/meta-data/placement/availability-zone-id"},
	{"REGION", "/latest/dynamic/instance-identity/document#region"},
	{"HOSTNAME", "/latest/meta-data/hostname"},
	{"PUBLIC_HOSTNAME", "/latest/meta-data/public-hostname"},
}

func newEnvCommand(out io.Writer) *cobra.Command {
	var flags clientFlags
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print attributes of an instance as environment variables",
		Long: `env prints the attributes of an instance under the names that afterburn uses on EC2, for EnvironmentFile=
of a systemd unit and for the dot command of a shell: AFTERBURN_AWS_INSTANCE_ID, _INSTANCE_TYPE,
_IPV4_LOCAL, _IPV4_PUBLIC, _IPV6, _AVAILABILITY_ZONE, _AVAILABILITY_ZONE_ID, _REGION, _HOSTNAME and
_PUBLIC_HOSTNAME. Attributes that do not exist are left out.

env quotes a value that has characters other than letters, digits and +,-./:@_: it puts it in double
quotes, with a backslash before $, ` + "`" + `, " and \. systemd and a shell read back exactly the value, which may
have several lines. A value that no environment can hold (a zero byte, or for systemd what is not
UTF-8) is an error, and nothing is printed.

The service is the same as for imdsfs get. Exit codes: 0 printed; 1 the service does not answer or
refuses; 2 wrong usage; 4 it has none of these.`,
		Example: `  imdsfs env
  imdsfs env --endpoint http://127.0.0.1:1338 > /run/imdsfs/environment`,
		Args: exactArgs(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := flags.client(cmd.Context())
			if err != nil {
				return err
			}
			text, err := environmentFile(cmd.Context(), s)
			if err != nil {
				return err
			}
			_, err = io.WriteString(out, text)
			return err
		},
	}
	flags.add(cmd)
	return cmd
}

func environmentFile(ctx context.Context, s *service) (string, error) {
	variables, err := environmentOf(ctx, s)
	if err != nil {
		return "", err
	}
	if len(variables) == 0 {
		return "", problem.No(hintStranger, fmt.Errorf("%s has no metadata of an instance", s.client.Endpoint()))
	}
	var b strings.Builder
	for _, v := range variables {
		fmt.Fprintf(&b, "%s=%s\n", v.name, quote(v.value))
	}
	return b.String(), nil
}

// A variable is a variable of an environment.
type variable struct{ name, value string }

// environmentOf reads the attributes from a service. It leaves out those that the service does not have.
func environmentOf(ctx context.Context, s *service) (variables []variable, err error) {
	for _, a := range attributes {
		path, key, _ := strings.Cut(a.path, "#")
		body, err := s.get(ctx, path)
		if err == nil && key != "" {
			body, err = member(body, key)
		}
		if errors.Is(err, client.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if strings.ContainsRune(string(body), 0) || !utf8.Valid(body) {
			return nil, fmt.Errorf("%s holds bytes that cannot be in an environment", a.path)
		}
		variables = append(variables, variable{"AFTERBURN_AWS_" + a.name, string(body)})
	}
	return variables, nil
}

// member returns the string under a key of a JSON object. The error is [client.ErrNotFound] if there is none.
func member(document []byte, key string) ([]byte, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(document, &object); err != nil {
		return nil, problem.Failed(hintStranger, errors.New("the instance identity document is no JSON object"))
	}
	var text *string
	if json.Unmarshal(object[key], &text) != nil || text == nil {
		return nil, client.ErrNotFound
	}
	return []byte(*text), nil
}

// harmless lists the characters, besides letters and digits, without a special meaning in a shell and in systemd.
const harmless = "+,-./:@_"

// quote quotes a value for systemd (systemd.exec(5)) and for the shell. Within double quotes both let a backslash escape only
// these four characters, and both keep a newline.
func quote(value string) string {
	plain := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune(harmless, r)
	}
	if value != "" && strings.IndexFunc(value, func(r rune) bool { return !plain(r) }) < 0 {
		return value
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`").Replace(value) + `"`
}
