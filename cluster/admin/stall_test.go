package admin

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// A client that asks for a backup and does not read it is given up; one that is only slow is not.
func TestBackupReaderStalls(t *testing.T) {
	t.Parallel()
	const stall = time.Second
	ended := make(chan error, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := &startedWriter{ResponseWriter: w, stall: stall}
		if r.URL.Path == "/slow" {
			for range 6 {
				time.Sleep(stall / 4)
				if _, err := io.WriteString(out, "part"); err != nil {
					t.Errorf("a slow client: %v", err)
				}
				w.(http.Flusher).Flush()
			}
			return
		}
		for { // more than any buffer takes
			if _, err := out.Write(make([]byte, 1<<20)); err != nil {
				ended <- err
				return
			}
		}
	}))
	defer s.Close()
	resp, err := http.Get(s.URL + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || len(body) != 24 {
		t.Errorf("%q, %v", body, err)
	}
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /stalled HTTP/1.1\r\nHost: node\r\n\r\n")
	if _, err := bufio.NewReaderSize(conn, 16).ReadByte(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		var timeout interface{ Timeout() bool }
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		conn.Close()
		t.Error("a client that reads nothing is waited for")
	}
}
