package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"murder/cluster/admin"
	"murder/internal/config"
	listening "murder/internal/listen"
	"murder/internal/obs"
)

// openAdmin serves the admin API on its socket, and health and metrics on a TCP port.
func (d *daemon) openAdmin() error {
	mux := http.NewServeMux()
	mux.Handle("/", d.gate(admin.Handler(d.node)))
	mux.HandleFunc("GET /v1/recipients/{addr}", d.recipient)
	admin.HandleProcess(mux, d)
	var api http.Handler = mux
	if path := d.cfg.Admin.Socket; path != "" {
		ln, err := listenUnix(path, 0o660)
		if err != nil {
			return fmt.Errorf("listening for the admin API: %w", err)
		}
		d.serveHTTP(ln, api)
	}
	if addr := d.cfg.Admin.Listen; addr != "" {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("listening for health checks and metrics: %w", err)
		}
		d.serveHTTP(ln, d.public(api, config.Loopback(addr)))
	}
	return nil
}

// recipient answers whether mail for an address can be delivered, and where.
func (d *daemon) recipient(w http.ResponseWriter, r *http.Request) {
	if h := d.recipients.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	http.Error(w, "this node delivers no mail", http.StatusNotFound)
}

// gate lets a node be ready only while its listeners are there: from the moment they are bound to the
// moment it is told to stop.
func (d *daemon) gate(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/livez" {
			if h := d.live(); !h.OK {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusServiceUnavailable)
				json.NewEncoder(w).Encode(h)
				return
			}
		}
		if r.URL.Path == "/readyz" && !d.serving.Load() {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusServiceUnavailable)
			json.NewEncoder(w).Encode(admin.Health{Checks: []admin.Check{{Name: "listeners", Detail: "starting, stopping, or drained"}}})
			return
		}
		api.ServeHTTP(w, r)
	})
}

// public is what anybody may ask who reaches the port: health and metrics. On this machine also what
// changes nothing.
func (d *daemon) public(api http.Handler, local bool) http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"GET /livez", "GET /readyz", "GET /healthz/cluster"} {
		mux.Handle(path, api)
	}
	mux.Handle("GET /metrics", obs.MetricsHandler(d.reg))
	if local {
		for _, path := range []string{"GET /v1/status", "GET /v1/digest", "GET /v1/mailboxes", "GET /v1/mailboxes/{name...}", "GET /v1/recipients/{addr}",
			"GET /v1/list", "GET /v1/changes", "GET /v1/details/{name...}", "GET /v1/findings", "GET /v1/backends"} {
			mux.Handle(path, api)
		}
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "here are /livez, /readyz, /healthz/cluster and /metrics; changes go through the admin socket", http.StatusNotFound)
	})
	return mux
}

func (d *daemon) serveHTTP(ln net.Listener, h http.Handler) {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	d.admin = append(d.admin, srv)
	go func() {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			d.fail(fmt.Errorf("serving the admin API on %s: %w", ln.Addr(), err))
		}
	}()
}

// fail reports the first part that broke.
func (d *daemon) fail(err error) {
	select {
	case d.failed <- err:
	default:
	}
}

// listenUnix listens on a socket in the place of one that a process left behind that is gone.
func listenUnix(path string, mode os.FileMode) (net.Listener, error) {
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		conn.Close()
		return nil, fmt.Errorf("%s is in use: is another murderd running here?", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	ln, err := net.Listen("unix", path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w; the directory %s must exist, systemd makes it by RuntimeDirectory=murder", err, filepath.Dir(path))
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// listen listens on an address or on the path of a socket.
func listen(addr string) (net.Listener, error) {
	if strings.HasPrefix(addr, "/") {
		return listenUnix(addr, 0o660)
	}
	return listening.TCP(addr)
}
