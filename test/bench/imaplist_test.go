package bench

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"murder/fsm"
	"murder/internal/auth"
	"murder/internal/backend"
	"murder/internal/mbox"
	"murder/proxy/imap"
	"murder/test/imapline"
)

// How long does LIST "" "*" take, from the command to the last line, for a user with 5 folders, and for one
// who sees 10 000 folders of others as well, when the map holds 1 million mailboxes, or 5? The frontend is in
// this process, and waits for nobody to confirm the map.
func BenchmarkIMAPList(b *testing.B) {
	for _, size := range []int{1_000_000, 5_000_000} {
		if testing.Short() {
			size /= 10
		}
		b.Run(fmt.Sprintf("mailboxes=%d", size), func(b *testing.B) {
			addr := listServer(b, size)
			if err := settled(addr); err != nil {
				b.Fatal(err)
			}
			for _, c := range []struct {
				user  string
				lines int
			}{{"few", 5}, {"many", 10_005}} {
				b.Run("user="+c.user, func(b *testing.B) {
					open := func(int) (*imapline.Conn, error) { return imapline.Login(addr, c.user, password) }
					measure(b, 1, open, shutIMAP, func(l *imapline.Conn, _ int) error {
						r, err := l.OK(`LIST "" "*"`)
						if err == nil && len(r.Lines) != c.lines {
							err = fmt.Errorf("%d lines", len(r.Lines))
						}
						return err
					})
				})
			}
		})
	}
}

// settled waits until a frontend that has just been started has walked its map.
func settled(addr string) error {
	l, err := imapline.Login(addr, "few", password)
	if err != nil {
		return err
	}
	defer shutIMAP(l)
	_, err = l.OK(`LIST "" "*"`)
	return err
}

// listServer starts a frontend whose map holds size mailboxes: those of "few" and "many", 10 000 that "many" may
// look up, and others.
func listServer(b *testing.B, size int) string {
	b.Helper()
	m := largeMap(b, size)
	users, err := auth.NewUsers(auth.User{Account: auth.Account{Name: "few"}, Password: "{PLAIN}" + password},
		auth.User{Account: auth.Account{Name: "many"}, Password: "{PLAIN}" + password})
	if err != nil {
		b.Fatal(err)
	}
	srv, err := imap.New(imap.Config{Directory: m, Namespace: mbox.Namespace{Alt: true}, ProbeInterval: -1, Backends: backend.New(backend.Config{}),
		Auth: auth.NewMechanisms(auth.Config{Source: users})})
	if err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go srv.Serve(ln, nil)
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		srv.Shutdown(ctx)
	})
	return ln.Addr().String()
}

// largeMap makes the map.
func largeMap(b *testing.B, size int) stillMap {
	b.Helper()
	m := fsm.New()
	var batch []fsm.Envelope
	index := uint64(0)
	send := func() {
		index++
		if _, err := m.Apply(index, fsm.AppendBatch(nil, index, batch)); err != nil {
			b.Fatal(err)
		}
		batch = batch[:0]
	}
	left := size
	add := func(name string, acl string) {
		at := mbox.At(mbox.Server(fmt.Sprintf("be%d.test", left%8)), "default")
		batch = append(batch, fsm.Envelope{Command: fsm.MailboxWrite{At: 1700000000, Write: mbox.Write{Kind: mbox.Activate, Name: mbox.Name(name),
			Location: at, ACL: mbox.ACL(acl), By: mbox.Session{ID: "s", Identity: "backend", Servers: []mbox.Server{at.Server()}}}}})
		if left--; len(batch) == 256 || left == 0 {
			send()
		}
	}
	folders := []string{"", ".Sent", ".Drafts", ".Trash", ".Junk"}
	for _, user := range []string{"few", "many"} {
		for _, f := range folders {
			add("user."+user+f, user+"\tlrswipkxtecda\t")
		}
	}
	for i := range 10_000 {
		add(fmt.Sprintf("team.folder%05d", i), "many\tlr\tboss\tlrswipkxtecda\t")
	}
	for i := 0; left > 0; i++ {
		user := fmt.Sprintf("u%07d", i/len(folders))
		add("user."+user+folders[i%len(folders)], user+"\tlrswipkxtecda\tanyone\tp\t")
	}
	if n := m.View().Len(); n != size {
		b.Fatalf("the map holds %d", n)
	}
	return stillMap{m.View()}
}

// stillMap is a map that does not change.
type stillMap struct{ view *fsm.View }

func (m stillMap) View() mbox.View                         { return m.view }
func (m stillMap) Barrier(context.Context) (uint64, error) { return m.view.Index(), nil }
func (m stillMap) Synced() bool                            { return true }
func (m stillMap) Changes(ctx context.Context, _ uint64) ([]mbox.Change, uint64, error) {
	<-ctx.Done()
	return nil, 0, ctx.Err()
}
func (m stillMap) Write(context.Context, []mbox.Write) ([]mbox.Verdict, error) {
	return nil, mbox.ErrUnavailable
}
