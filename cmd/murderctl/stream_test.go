package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/fsm"
)

// What takes longer than --timeout goes on while there are signs of life, and ends when there are none.
func TestLongWork(t *testing.T) {
	t.Parallel()
	const silence, step, steps = 2 * time.Second, 100 * time.Millisecond, 25
	file := filepath.Join(t.TempDir(), "backup")
	if err := os.WriteFile(file, []byte("backup"), 0o600); err != nil {
		t.Fatal(err)
	}
	var saved bytes.Buffer
	if _, err := fsm.New().Snapshot().WriteTo(&saved); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		args []string
		do   http.HandlerFunc
		code int
		want string
	}{
		{"restoring", []string{"backup", "restore", file, "--yes"}, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			if r.URL.Query().Has("apply") {
				for range steps {
					time.Sleep(step)
					w.WriteHeader(http.StatusProcessing)
				}
			}
			io.WriteString(w, `{"adds":7,"applied":true}`)
		}, 0, "7"},
		{"saving", []string{"backup", "save", file + ".saved"}, func(w http.ResponseWriter, _ *http.Request) {
			for part := range slices.Chunk(saved.Bytes(), saved.Len()/steps) {
				time.Sleep(step)
				w.Write(part)
				w.(http.Flusher).Flush()
			}
		}, 0, "saved in"},
		{"joining", []string{"cluster", "join", "token"}, func(w http.ResponseWriter, _ *http.Request) {
			for range steps {
				time.Sleep(step)
				w.WriteHeader(http.StatusProcessing)
			}
			io.WriteString(w, "{}")
		}, 0, "the node is at work"},
		{"hanging", []string{"backup", "save", file + ".hung"}, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, 1, "said nothing for 2s"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			node := httptest.NewServer(c.do)
			defer node.Close()
			code, stdout, stderr := ctlRun(t, "", append([]string{"--addr", node.URL, "--timeout", silence.String()}, c.args...)...)
			if code != c.code || !strings.Contains(stdout+stderr, c.want) {
				t.Errorf("exit %d, want %d with %q: %s%s", code, c.code, c.want, stdout, stderr)
			}
		})
	}
}
