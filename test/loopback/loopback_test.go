package loopback

import (
	"errors"
	"net"
	"testing"
)

func TestClaimsDiffer(t *testing.T) {
	a, err := Claim()
	if errors.Is(err, ErrOneAddress) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer a.Release()
	b, err := Claim()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	if a.Prefix() == b.Prefix() {
		t.Fatalf("both claims got %s", a.Prefix())
	}
	l, err := net.Listen("tcp", a.Host(9)+":0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}
