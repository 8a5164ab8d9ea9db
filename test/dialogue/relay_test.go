package dialogue

import (
	"bufio"
	"io"
	"net"
	"slices"
	"testing"
)

func TestRelay(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
	}()
	r, err := Listen("127.0.0.1:0", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, err := net.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "one\r\ntwo\r\n")
	echo := bufio.NewReader(c)
	for range 2 {
		if _, err := echo.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	var said, heard []string
	for _, l := range r.Take() {
		if l.Client {
			said = append(said, l.Text)
		} else {
			heard = append(heard, l.Text)
		}
	}
	if want := []string{"one", "two"}; !slices.Equal(said, want) || !slices.Equal(heard, want) {
		t.Fatalf("client %q, server %q", said, heard)
	}
}

// Lines can be lost, or be the last that their connection carries, and something can happen before
// they pass.
func TestFate(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	r, err := Listen("127.0.0.1:0", "127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.Lead(l.Addr().String())
	for fate, want := range map[Fate]string{Pass: "one\ntwo\nthree\n", CutBefore: "one\n", CutAfter: "one\ntwo\n"} {
		r.Decide(func(l Line) Fate {
			if !l.Client && l.Text == "two" {
				return fate
			}
			return Pass
		})
		c, err := net.Dial("tcp", r.Addr())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "one\ntwo\nthree\n")
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
			t.Errorf("fate %d: %q, want %q (%v)", fate, got, want, err)
		}
		if fate != Pass {
			if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Errorf("fate %d: the connection goes on", fate)
			}
		}
		c.Close()
	}
}
