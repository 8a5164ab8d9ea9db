package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// pair returns the two ends of a connection.
func pair(t *testing.T) (a, b net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return New(a), New(b)
}

// Octets go both ways at once, more than any buffer holds, and end where one side has ended.
func TestBothWays(t *testing.T) {
	a, b := pair(t)
	sent := bytes.Repeat([]byte("0123456789abcde\n"), 1<<19)
	var work sync.WaitGroup
	for _, c := range []net.Conn{a, b} {
		work.Go(func() {
			if n, err := c.Write(sent); n != len(sent) || err != nil {
				t.Errorf("%d octets written: %v", n, err)
			}
			c.(interface{ CloseWrite() error }).CloseWrite()
		})
		work.Go(func() {
			if got, err := io.ReadAll(c); !bytes.Equal(got, sent) || err != nil {
				t.Errorf("%d octets read: %v", len(got), err)
			}
		})
	}
	work.Wait()
}

// Waiting ends by a deadline, by Close, and by a reset, with the errors of package net.
func TestEnds(t *testing.T) {
	a, b := pair(t)
	a.SetDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	if n, err := a.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("written %d: %v", n, err)
	}
	a.SetDeadline(time.Time{})
	var work sync.WaitGroup
	work.Go(func() {
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
	})
	work.Go(func() {
		if _, err := a.Write(make([]byte, 64<<20)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
	})
	time.AfterFunc(10*time.Millisecond, func() { a.Close() })
	work.Wait()
	io.Copy(io.Discard, b)
	if _, err := b.Write([]byte("x")); err == nil {
		_, err = b.Read(make([]byte, 1))
		if err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v", err)
		}
	}
}

// Whoever has read what another wrote comes after him, and the race detector knows.
func TestOrder(t *testing.T) {
	a, b := pair(t)
	word := ""
	done := make(chan struct{})
	go func() {
		defer close(done)
		word = "said"
		a.Write([]byte("x"))
	}()
	b.Read(make([]byte, 1))
	if word != "said" {
		t.Error(word)
	}
	<-done
}
