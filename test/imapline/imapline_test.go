package imapline

import (
	"errors"
	"io"
	"net"
	"slices"
	"testing"
)

// serve answers one connection with fixed text.
func serve(t *testing.T, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, text)
		io.Copy(io.Discard, c)
	}()
	return l.Addr().String()
}

func TestListAndLiterals(t *testing.T) {
	c, err := Dial(serve(t, "* OK hello\r\n"+
		"* LIST (\\HasChildren) \".\" INBOX\r\n* LIST () \".\" \"a \\\"b\"\r\n* LIST () \".\" {3}\r\nx\r\n\r\nt1 OK done\r\n"+
		"t2 NO [CANNOT] no\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	names, err := c.List("*")
	if want := []string{"INBOX", `a "b`, "x\r\n"}; err != nil || !slices.Equal(names, want) {
		t.Fatalf("got %q, %v; want %q", names, err, want)
	}
	_, err = c.OK("DELETE x")
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Status != "NO" || refused.Text != "[CANNOT] no" {
		t.Fatalf("got %v", err)
	}
}
