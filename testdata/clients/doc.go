// Package clients drives a running `imdsfs serve` with client libraries that are too heavy to be
// dependencies of imdsfs itself: it is a module of its own and holds tests only.
//
// The tests start the binary that IMDSFS_BIN names; `make test` builds it and sets the variable.
package clients
