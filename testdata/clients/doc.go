// Package clients drives a running `imdsfs serve` with unmodified clients of the EC2 metadata service. It
// is a module of its own, so that client libraries stay out of imdsfs's, and holds tests only. They start
// the binary that IMDSFS_BIN names; `make test` builds it and sets the variable.
//
// TestClients is a table of programs and libraries (clients_test.go). Each runs with tokens optional and
// required, in a network namespace that owns the address of the real service (world_test.go). A recorder
// stands before the daemon there (recorder_test.go): what a client asks has to be what golden/ lists, so that a
// new habit of a new version shows. README.md has the results. With -update both are written anew.
//
// To add a client, add it to the table and run with -update; what is not in Go is in programs/.
// The other tests go through aws-sdk-go-v2's client call by call.
package clients
