//go:build cyrus

package cyrus

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"murder/internal/mbox"
	"murder/mupdate"
	"murder/test/lmtpline"
)

// largeMap is how many mailboxes of a server that is not there fill the map, unless MURDER_LARGE_MAP
// says another number. With 100 000 the story takes half a minute more.
var largeMap = 20_000

// M6. A Cyrus frontend holds a large map. The node that it follows is killed and comes back: the frontend
// loses no name, and its LMTP never says that a user does not exist.
func TestCyrusFrontendWithALargeMap(t *testing.T) {
	t.Parallel()
	if n, err := strconv.Atoi(os.Getenv("MURDER_LARGE_MAP")); err == nil {
		largeMap = n
	}
	m := newMurder(t, Options{Backends: 1, Frontends: 1})
	c := m.ours(t)
	be1, fe := m.Node("be1"), m.Node("fe1")
	ok(t, signOn(t, be1, m.Admin()), "CREATE user.u1")
	// The frontend takes a dump in one transaction, and a stream row by row.
	if err := fe.Stop(); err != nil {
		t.Fatal(err)
	}
	fill(t, m.nodes[0], m.Admin(), m.Password())
	if err := fe.Start(); err != nil {
		t.Fatal(err)
	}
	full := func() error {
		out, err := fe.Exec("ctl_mboxlist", "-d")
		if n := strings.Count(out, "elsewhere.rig.test"); err != nil || n != largeMap {
			return fmt.Errorf("the frontend has %d names, want %d (%v)", n, largeMap, err)
		}
		return nil
	}
	eventually(t, full)

	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for n := 0; ; n++ {
			select {
			case <-stop:
				t.Logf("%d deliveries tried", n)
				return
			default:
			}
			l, err := lmtpline.Dial(fe.Addr(TrustedLMTPPort))
			if err != nil {
				t.Errorf("LMTP session with the frontend: %v", err)
				return
			}
			replies, err := l.Deliver("Subject: steady\r\n\r\nhello\r\n", "u1")
			l.Close()
			if err != nil || replies[0].Code/100 == 5 {
				t.Errorf("delivery %d: %v %v", n, replies, err)
				return
			}
		}
	}()
	again := fe.logged(synchronised) + 1
	if err := c.Kill("f1"); err != nil {
		t.Fatal(err)
	}
	if err := c.Start("f1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if n := fe.logged(synchronised); n < again {
			return fmt.Errorf("the frontend has synchronised %d times", n)
		}
		return full()
	})
	close(stop)
	wg.Wait()
}

// synchronised is what a Cyrus frontend logs when it has merged a dump.
const synchronised = "mailbox list synchronization complete"

// logged counts the lines of a node's log that contain text.
func (n *Node) logged(text string) int {
	count := 0
	for _, l := range n.Log() {
		if strings.Contains(l, text) {
			count++
		}
	}
	return count
}

func fill(t *testing.T, addr, user, password string) {
	t.Helper()
	ctx := context.Background()
	c, err := mupdate.Dial(ctx, mupdate.ClientConfig{Addresses: []string{addr}, SASL: mupdate.Password(user, password)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for done := 0; done < largeMap; {
		var writes []mbox.Write
		for ; len(writes) < 1000 && done < largeMap; done++ {
			writes = append(writes, mbox.Write{Kind: mbox.Activate, Name: mbox.Name(fmt.Sprintf("user.big%05d.a - b", done)),
				Location: "elsewhere.rig.test!default", ACL: "owner\tlrswipkxtecdan\t"})
		}
		errs, err := c.Batch(ctx, writes)
		if err != nil {
			t.Fatal(err)
		}
		for i, err := range errs {
			if err != nil {
				t.Fatalf("%s: %v", writes[i].Name, err)
			}
		}
	}
}
