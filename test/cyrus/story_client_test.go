//go:build cyrus

package cyrus

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"murder/internal/mbox"
	"murder/mupdate"
)

// Our client at Cyrus's own master: the migration of a running Murder begins with it.
func TestOurClientAtCyrusMaster(t *testing.T) {
	t.Parallel()
	r := Start(t, Options{Master: true, Backends: 1})
	testClient(t, r.Node("mupdate").Addr(MupdatePort), r.Node("be1"), "u1")
}

// Our client at our own nodes.
func TestOurClientAtOurNodes(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{Backends: 1})
	m.ours(t)
	for i, addr := range m.nodes {
		testClient(t, addr, m.Node("be1"), fmt.Sprintf("u%d", i+1))
	}
	m.push(t, m.Node("be1")) // deletions are renames, which leave locations without their partition
}

// testClient follows a server while a real backend changes the map, and changes it itself.
func testClient(t *testing.T, addr string, be1 *Node, user string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// A short Timeout makes the stream ask often: Cyrus tells news every five seconds, or when asked.
	config := mupdate.ClientConfig{Addresses: []string{addr}, Timeout: 3 * time.Second, SASL: mupdate.Password("cyrus", "labpass")}
	c, err := mupdate.Dial(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	synced := make(chan struct{})
	rows := make(chan mbox.Entry, 1000)
	stream, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- mupdate.Follow(stream, config, nil, mupdate.Events{
			Row:    func(e mbox.Entry) error { rows <- e; return nil },
			Synced: func() error { close(synced); return nil },
			Lost:   func(err error) { t.Logf("the stream from %s: %v", addr, err) },
		})
	}()
	select {
	case <-synced:
	case <-ctx.Done():
		t.Fatalf("no complete dump from %s", addr)
	}
	await := func(what string, is func(mbox.Entry) bool) {
		t.Helper()
		for {
			select {
			case e := <-rows:
				if is(e) {
					return
				}
			case <-ctx.Done():
				t.Fatalf("the stream from %s never showed %s", addr, what)
			}
		}
	}

	admin := signOn(t, be1, "cyrus")
	inbox := "user." + user
	ok(t, admin, "CREATE %s", inbox)
	await("the CREATE", func(e mbox.Entry) bool { return e.Name == mbox.Name(inbox) && e.State == mbox.Active })
	e, found, err := c.Find(ctx, mbox.Name(inbox))
	if err != nil || !found || e.Location.Server() != mbox.Server(be1.Server) || e.ACL != mbox.ACL(user+"\tlrswipkxtecdan\t") {
		t.Errorf("FIND: %+v %v %v", e, found, err)
	}
	if _, found, err := c.Find(ctx, "user.none"); err != nil || found {
		t.Errorf("FIND of an unknown name: %v %v", found, err)
	}

	if err := c.Reserve(ctx, "shared", "other.test!p"); err != nil {
		t.Fatal(err)
	}
	if err := c.Activate(ctx, "shared", "other.test!p", "anyone\tlrs\t"); err != nil {
		t.Fatal(err)
	}
	await("the ACTIVATE", func(e mbox.Entry) bool { return e.Name == "shared" && e.State == mbox.Active })
	var names []mbox.Name
	if err := c.List(ctx, "other.test!", func(e mbox.Entry) error { names = append(names, e.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(names) != 1 || names[0] != "shared" {
		t.Errorf("LIST of one server: %q", names)
	}
	var refusal *mupdate.ResponseError
	if err := c.Reserve(ctx, mbox.Name(inbox), "other.test!p"); !errors.As(err, &refusal) || refusal.Status != "NO" {
		t.Errorf("RESERVE of a name that is taken: %v", err)
	}
	if err := c.Delete(ctx, "shared"); err != nil {
		t.Fatal(err)
	}
	await("the DELETE", func(e mbox.Entry) bool { return e.Name == "shared" && e.State == mbox.Absent })
	if err := c.Logout(ctx); err != nil {
		t.Errorf("LOGOUT: %v", err)
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the stream ended with %v", err)
	}
	ok(t, admin, "SETACL %s cyrus lrswipkxtecda", inbox)
	ok(t, admin, "DELETE %s", inbox)
}
