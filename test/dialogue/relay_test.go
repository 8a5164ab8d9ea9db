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
