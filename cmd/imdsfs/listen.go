package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/imdsfs/imdsfs/imds/edge"
	"github.com/imdsfs/imdsfs/source"
)

// linkLocal is the keyword for the addresses of the real service.
const linkLocal = "link-local"

const (
	linkLocalIPv4 = "169.254.169.254:80"
	linkLocalIPv6 = "[fd00:ec2::254]:80"
)

// listenAll opens every address, or none: an address that cannot be had is an error.
func listenAll(ctx context.Context, addresses []string, opts *source.Options) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, address := range addresses {
		for _, a := range expand(address, opts) {
			l, err := edge.Listen(ctx, a)
			if err != nil {
				closeAll(listeners)
				return nil, failure(exitFailed, listenHint(address, err), err)
			}
			listeners = append(listeners, l)
		}
	}
	return listeners, nil
}

func expand(address string, opts *source.Options) []string {
	switch {
	case address == none:
		return nil
	case address != linkLocal:
		return []string{address}
	case opts.HTTPProtocolIPv6:
		return []string{linkLocalIPv4, linkLocalIPv6}
	}
	return []string{linkLocalIPv4}
}

func listenHint(address string, err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "something else answers there; stop it, or choose another address with --listen"
	case errors.Is(err, syscall.EADDRNOTAVAIL) && address == linkLocal:
		return "put the addresses on an interface first: ip address add 169.254.169.254/32 dev lo"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "the address belongs to no interface of this machine"
	case errors.Is(err, syscall.EACCES):
		return "ports below 1024 need root"
	}
	return "give --listen an address and a port, such as 127.0.0.1:1338"
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

func addressesOf(listeners []net.Listener) []string {
	addresses := make([]string, len(listeners))
	for i, l := range listeners {
		addresses[i] = l.Addr().String()
	}
	return addresses
}

// listenFile holds the addresses that are really listened on, one a line, for imdsfs get.
func listenFile(runtimeDir string) string { return filepath.Join(runtimeDir, "listen") }

func writeListenFile(runtimeDir string, addresses []string) error {
	text := ""
	if len(addresses) > 0 {
		text = strings.Join(addresses, "\n") + "\n"
	}
	if err := writeFile(listenFile(runtimeDir), []byte(text), 0o644); err != nil {
		return fmt.Errorf("note the addresses: %w", err)
	}
	return nil
}
