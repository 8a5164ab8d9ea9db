package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"murder/cluster/admin"
)

// Whether a node has left is a question of what the cluster says in the end, not of the answer to the removal,
// which may be lost. One that has not left is told how to go on.
func TestLeave(t *testing.T) {
	for _, tt := range []struct {
		name   string
		remove func(w http.ResponseWriter, r *http.Request, gone func())
		code   int
	}{
		{"removed", func(w http.ResponseWriter, _ *http.Request, gone func()) { gone(); w.Write([]byte("{}")) }, 0},
		{"removed, and no answer", func(_ http.ResponseWriter, r *http.Request, gone func()) { gone(); <-r.Context().Done() }, 0},
		{"refused", func(w http.ResponseWriter, _ *http.Request, _ func()) {
			w.WriteHeader(http.StatusConflict)
			json.NewEncoder(w).Encode(admin.Error{Message: "it is needed"})
		}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := cluster(member("c1", "voter", "1"), member("c2", "voter", "1"), member("f1", "learner", "1"))
			s.Node = "c1"
			s.Nodes[2].Draining, s.Nodes[2].State = true, "draining"
			var left atomic.Bool
			node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == http.MethodDelete:
					tt.remove(w, r, func() { left.Store(true) })
				case r.Method == http.MethodGet:
					now := s
					if left.Load() {
						now.Nodes = s.Nodes[:2]
					}
					json.NewEncoder(w).Encode(now)
				default:
					w.Write([]byte("{}"))
				}
			}))
			t.Cleanup(node.Close)
			code, out, stderr := ctlRun(t, "", "--addr", node.URL, "--timeout", "2s", "node", "leave", "f1", "--yes")
			if code != tt.code {
				t.Fatalf("exit %d: %s%s", code, out, stderr)
			}
			if tt.code != 0 && !(strings.Contains(stderr, "drains but is still a member: it is needed") && strings.Contains(stderr, "node undrain f1")) {
				t.Error(stderr)
			}
		})
	}
}
