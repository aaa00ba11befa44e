package main

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/source/ec2"
)

func newGetCommand(out io.Writer) *cobra.Command {
	var flags clientFlags
	var wait waitFlag
	cmd := &cobra.Command{
		Use:   "get PATH",
		Short: "Print one value of an instance metadata service",
		Long: `get prints what an instance metadata service holds at PATH, byte for byte: no newline is added. A
directory prints its listing. PATH is relative to /latest/meta-data/. meta-data/…, dynamic/… and user-data
are relative to /latest/, and /VERSION/… is absolute.

get works with any service, including that of EC2. It uses --endpoint, else the environment variable
` + client.EndpointVariable + `, else the address that a local daemon leaves in its
run-time directory, else ` + client.LinkLocal + `.

get first fetches a session token (IMDSv2), and fails if the service gives none. It asks without a token
(IMDSv1) only with --v1.

With --wait get waits until a daemon answers and has PATH. Without an endpoint it waits for the local
daemon and does not ask ` + client.LinkLocal + `, because another service may answer there until
the daemon has started. A refusal (such as 401 or 403) ends the wait at once.

Exit codes: 0 printed; 1 the service does not answer or refuses; 2 wrong usage; 4 no such metadata.`,
		Example: `  imdsfs get instance-id
  imdsfs get network/interfaces/macs/
  imdsfs get /2021-03-23/dynamic/instance-identity/document
  imdsfs get --endpoint http://127.0.0.1:1338 /latest/user-data
  imdsfs get --wait 30s instance-id`,
		Args: exactArgs(1, "one PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := ec2.Absolute(args[0])
			body, s, err := wait.get(cmd.Context(), &flags, path)
			if errors.Is(err, client.ErrNotFound) {
				return wait.tried(s.noSuch(cmd.Context(), args[0], path))
			}
			if err != nil {
				return err
			}
			_, err = out.Write(body)
			return err
		},
	}
	flags.add(cmd)
	wait.add(cmd)
	return cmd
}
