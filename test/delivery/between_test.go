//go:build cyrus

package delivery

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"murder/test/cyrus"
)

// What happens between two steps of a client: mailboxes are reserved, move or go between RCPT and DATA, the
// client leaves, the spool fills up, a backend is slow or dies, the frontend dies.
func TestBetween(t *testing.T) {
	n := newSpool(t)
	w := newWorld(t, options{
		relayed: true,
		conf:    map[string][]string{"": {"popsubfolders: 1"}},
		flags: []string{"--set", "pop3.popsubfolders=true", "--set", "lmtp.spool_dir=" + n, "--user", "frank:" + password,
			"--set", "lmtp.outcome_timeout=120s"},
	})
	slow, rate := slowly(t, w.be1.Addr(cyrus.LMTPPort))
	w.relay.Lead(slow)
	lmtp := w.cluster.Addr("f1", "lmtp")
	master, follower := writer(t, w.cluster, "c1"), writer(t, w.cluster, "f1")

	t.Run("reserved", func(t *testing.T) {
		m := dialMTA(t, "tcp", lmtp)
		if err := master.Reserve(t.Context(), "user.frank", "be1.rig.test!default"); err != nil {
			t.Fatal(err)
		}
		m.say("MAIL FROM:<>", "250 ")
		m.say("RCPT TO:<frank>", "451 4.2.1")
		if err := master.Delete(t.Context(), "user.frank"); err != nil {
			t.Fatal(err)
		}
		m.say("RCPT TO:<frank>", "550 5.1.1")
		// carol is being moved: her record is reserved again.
		if err := master.Deactivate(t.Context(), "user.carol", "be2.rig.test!default"); err != nil {
			t.Fatal(err)
		}
		// A hit is answered from the local copy, and the backend of this story knows nothing of the move: so
		// the copy comes first.
		if err := follower.Noop(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.say("RCPT TO:<carol>", "451 4.2.1")
		if err := master.Activate(t.Context(), "user.carol", "be2.rig.test!default", "carol\tlrswipkxtecdan\t"); err != nil {
			t.Fatal(err)
		}
		if err := follower.Noop(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.say("RCPT TO:<carol>", "250 ")
	})

	t.Run("deleted before DATA", func(t *testing.T) {
		m := dialMTA(t, "tcp", lmtp)
		for _, rcpt := range []string{"alice", "bob", "dave"} {
			if rcpt == "alice" {
				m.say("MAIL FROM:<>", "250 ")
			}
			m.say("RCPT TO:<"+rcpt+">", "250 ")
		}
		w.admin(t, w.be2, "SETACL user.bob "+w.rig.Admin()+" lrswipkxtecda", "DELETE user.bob")
		m.say("DATA", "354 ")
		m.send(letter("deleted", "x\r\n") + ".\r\n")
		m.want("250 2.1.5", "550 5.1.1", "250 2.1.5")
		w.admin(t, w.be2, "CREATE user.bob")
	})

	t.Run("moved before DATA", func(t *testing.T) {
		m := dialMTA(t, "tcp", lmtp)
		m.say("MAIL FROM:<>", "250 ")
		m.say("RCPT TO:<dave>", "250 ")
		w.admin(t, w.be1, "SETACL user.dave "+w.rig.Admin()+" lrswipkxtecda", "XFER user.dave "+w.be2.Server)
		m.say("DATA", "354 ")
		m.send(letter("moved", "x\r\n") + ".\r\n")
		m.want("250 2.1.5")
		if n := count(messages(t, w.be2, "dave", "INBOX"), "Subject: moved"); n != 1 {
			t.Errorf("dave has %d at the new place", n)
		}
	})

	t.Run("reset before the dot", func(t *testing.T) {
		m := dialMTA(t, "tcp", lmtp)
		m.say("MAIL FROM:<>", "250 ")
		m.say("RCPT TO:<alice>", "250 ")
		m.say("RCPT TO:<carol>", "250 ")
		m.say("DATA", "354 ")
		m.send(letter("torn", strings.Repeat("x\r\n", 200<<10)))
		eventually(t, func() error { // it is in the spool
			if v := w.metric(t, "f1", `murder_lmtp_spool_bytes{place="file"}`); v < 300<<10 {
				return fmt.Errorf("the spool has %v", v)
			}
			return nil
		})
		m.reset()
		eventually(t, func() error {
			if v := w.metric(t, "f1", `murder_lmtp_spool_bytes{place="file"}`) + w.metric(t, "f1", `murder_lmtp_spool_bytes{place="memory"}`); v != 0 {
				return fmt.Errorf("the spool has %v", v)
			}
			return nil
		})
		for user, n := range map[string]*cyrus.Node{"alice": w.be1, "carol": w.be2} {
			if n := count(messages(t, n, user, "INBOX"), "Subject: torn"); n != 0 {
				t.Errorf("%s has %d", user, n)
			}
		}
	})

	t.Run("reset after the dot", func(t *testing.T) {
		m := dialMTA(t, "tcp", lmtp)
		m.say("MAIL FROM:<>", "250 ")
		m.say("RCPT TO:<alice>", "250 ")
		m.say("RCPT TO:<carol>", "250 ")
		m.say("DATA", "354 ")
		m.send(letter("gone", "x\r\n") + ".\r\n")
		eventually(t, func() error { // the frontend has it all; then it does not matter that the client is gone
			if n := count(messages(t, w.be2, "carol", "INBOX"), "Subject: gone"); n != 1 {
				return fmt.Errorf("carol has %d", n)
			}
			return nil
		})
		m.reset()
		eventually(t, func() error {
			if n := count(messages(t, w.be1, "alice", "INBOX"), "Subject: gone"); n != 1 {
				return fmt.Errorf("alice has %d", n)
			}
			log, err := os.ReadFile(w.cluster.Dir + "/f1.log")
			if err == nil && (!strings.Contains(string(log), "alice at be1.rig.test") || !strings.Contains(string(log), "carol at be2.rig.test")) {
				err = errors.New("the log does not tell what became of it")
			}
			return err
		})
	})

	t.Run("full spool", func(t *testing.T) {
		m := dialMTA(t, "tcp", lmtp)
		ballast := filepath.Join(n, "ballast")
		if err := os.WriteFile(ballast, make([]byte, 40<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		m.say("MAIL FROM:<>", "250 ")
		m.say("RCPT TO:<alice>", "250 ")
		eventually(t, func() error { // a look at the free space holds for a moment
			m.send("DATA\r\n")
			got := m.reply()
			if strings.HasPrefix(got, "452 4.3.1") {
				return nil
			}
			m.send(letter("room", "x\r\n") + ".\r\n")
			m.want("250 ")
			m.say("MAIL FROM:<>", "250 ")
			m.say("RCPT TO:<alice>", "250 ")
			return errors.New(got)
		})
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		m.say("DATA", "354 ")
		m.send(letter("room again", "x\r\n") + ".\r\n")
		m.want("250 2.1.5")
	})

	// One backend takes 4 MiB a second: the other's recipient hears at once, and the frontend needs no memory for it.
	t.Run("large message, slow backend", func(t *testing.T) {
		rate.Store(4 << 20)
		defer rate.Store(0)
		m := dialMTA(t, "tcp", lmtp)
		m.nc.SetDeadline(time.Now().Add(3 * time.Minute))
		before := w.resident(t, "f1")
		m.say("MAIL FROM:<>", "250 ")
		m.say("RCPT TO:<carol>", "250 ")
		m.say("RCPT TO:<alice>", "250 ")
		m.say("DATA", "354 ")
		line := strings.Repeat("x", 76) + "\r\n"
		const size = 32 << 20
		began := time.Now()
		m.send(letter("large", strings.Repeat(line, size/len(line))) + ".\r\n")
		sent := time.Since(began)
		m.want("250 2.1.5")
		early := time.Since(began)
		m.want("250 2.1.5")
		late := time.Since(began)
		more := w.resident(t, "f1") - before
		t.Logf("sent in %s, carol after %s, alice after %s; %d MiB more memory", sent.Round(time.Millisecond), early.Round(time.Millisecond), late.Round(time.Millisecond), more>>20)
		if late < 5*time.Second || early > late-2*time.Second {
			t.Errorf("carol after %s, alice after %s", early, late)
		}
		if more > 24<<20 {
			t.Errorf("%d MiB more memory for a message of %d", more>>20, size>>20)
		}
	})

	t.Run("folder by POP3", func(t *testing.T) {
		if err := signOn(t, w.be1, "alice").Append("INBOX.Work", letter("at work", "x\r\n")); err != nil {
			t.Fatal(err)
		}
		p := loginPOP3(t, w.cluster.Addr("f1", "pop3"), "alice+Work")
		if got := askPOP3(t, p, "STAT"); !strings.HasPrefix(got, "+OK 1 ") {
			t.Error(got)
		}
	})

	t.Run("frontend dies in POP3", func(t *testing.T) {
		before := len(messages(t, w.be1, "alice", "INBOX"))
		p := loginPOP3(t, w.cluster.Addr("f1", "pop3"), "alice")
		if got := askPOP3(t, p, "DELE 1"); !strings.HasPrefix(got, "+OK") {
			t.Error(got)
		}
		if err := w.cluster.Kill("f1"); err != nil {
			t.Fatal(err)
		}
		if got, err := p.ReadLine(); err == nil {
			t.Errorf("a frontend that was killed says %q", got)
		}
		if err := w.cluster.Start("f1"); err != nil {
			t.Fatal(err)
		}
		if after := len(messages(t, w.be1, "alice", "INBOX")); after != before {
			t.Errorf("%d messages, and then %d", before, after)
		}
	})

	t.Run("backend dies in RETR", func(t *testing.T) {
		p := loginPOP3(t, w.cluster.Addr("f1", "pop3"), "carol")
		p.PrintfLine("LIST")
		if _, err := p.ReadLine(); err != nil {
			t.Fatal(err)
		}
		lines, err := p.ReadDotLines()
		if err != nil {
			t.Fatal(err)
		}
		number := ""
		for _, l := range lines {
			var n, size int
			if fmt.Sscan(l, &n, &size); size > 30<<20 {
				number = fmt.Sprint(n)
			}
		}
		p.PrintfLine("RETR %s", number)
		if got, err := p.ReadLine(); err != nil || !strings.HasPrefix(got, "+OK") {
			t.Fatalf("%q %v", got, err)
		}
		w.be2.Kill() // most of it is still to come
		rest, err := io.ReadAll(p.R)
		if len(rest) > 31<<20 || strings.HasSuffix(string(rest), "\r\n.\r\n") || strings.Contains(string(rest), "-ERR") {
			t.Errorf("%d octets came, the last are %q, %v", len(rest), rest[max(0, len(rest)-40):], err)
		}
		if err := w.be2.Start(); err != nil {
			t.Fatal(err)
		}
	})
}

// newSpool is a file system of 100 MiB, of which frontends keep 64 free.
func newSpool(t *testing.T) string {
	t.Helper()
	cyrus.Require(t)
	dir := t.TempDir()
	if err := syscall.Mount("spool", dir, "tmpfs", 0, "size=100m"); err != nil {
		cyrus.Lacking(t, fmt.Sprintf("mounting a spool: %v", err))
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// metric is one value of a node's metrics.
func (w *world) metric(t testing.TB, id, name string) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	all, err := w.cluster.Metrics(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return all[name]
}

// resident is the most memory that a node has had, in octets.
func (w *world) resident(t testing.TB, id string) (peak int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.cluster.PID(id)))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			fmt.Sscan(value, &peak)
		}
	}
	return peak << 10
}

// reset ends the connection with a reset.
func (m *mta) reset() {
	m.nc.(*net.TCPConn).SetLinger(0)
	m.nc.Close()
}

// slowly returns an address that leads to another one, which gets at most rate octets a second; 0 is no limit.
func slowly(t *testing.T, target string) (addr string, rate *atomic.Int64) {
	t.Helper()
	rate = new(atomic.Int64)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				in.Close()
				continue
			}
			work.Go(func() {
				defer out.Close()
				piece := make([]byte, 64<<10)
				for r := bufio.NewReader(in); ; {
					n, err := r.Read(piece)
					if _, werr := out.Write(piece[:n]); err != nil || werr != nil {
						return
					}
					if limit := rate.Load(); limit > 0 {
						time.Sleep(time.Duration(n) * time.Second / time.Duration(limit))
					}
				}
			})
			work.Go(func() {
				defer in.Close()
				io.Copy(in, out)
			})
		}
	})
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String(), rate
}
