// Command bare serves a folder with what anyone would write: net/http's server and one handler, which
// has every file in memory.
//
//	bare FOLDER ADDRESS   # prints "ready"
package main

import (
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
)

func main() {
	if err := serve(os.DirFS(os.Args[1]), os.Args[2]); err != nil {
		fmt.Fprintf(os.Stderr, "bare: error: %v\n", err)
		os.Exit(1)
	}
}

func serve(folder fs.FS, address string) error {
	bodies := map[string][]byte{}
	err := fs.WalkDir(folder, ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			bodies["/"+path], err = fs.ReadFile(folder, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := bodies[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		w.Write(body)
	}))
}
