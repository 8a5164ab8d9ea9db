package mupdate

import (
	"bufio"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"murder/internal/auth"
	"murder/internal/mbox"
)

// merge is what Cyrus's slave does with a dump (Cyrus: mupdate.c, mupdate_synchronize): it walks its own
// list, which is in the order of its database, and the dump as it came, and compares names by octets.
// What is local to a unified server it leaves alone.
func merge(list map[mbox.Name]mbox.Location, order mbox.Order, own mbox.Server, dump []mbox.Entry) {
	local := slices.SortedFunc(maps.Keys(list), order.Compare)
	l, r := 0, 0
	for l < len(local) || r < len(dump) {
		switch {
		case r == len(dump) || l < len(local) && local[l] < dump[r].Name:
			if own == "" || list[local[l]].Server() != own {
				delete(list, local[l])
			}
			l++
		case l == len(local) || dump[r].Name < local[l]:
			list[dump[r].Name] = dump[r].Location
			r++
		default:
			if own == "" || list[local[l]].Server() != own {
				list[dump[r].Name] = dump[r].Location
			}
			l++
			r++
		}
	}
}

// Whatever a slave has kept from earlier, and in whatever order its database is, after the dump and the rows
// that follow it has every mailbox and no other. Only mboxsort, together with names of domains, has to
// be configured for that.
func TestSlavesAreWhole(t *testing.T) {
	const acl = "u\tl\t"
	for _, c := range []struct {
		what  string
		local mbox.Order // of the slave's database
		told  mbox.Order // in the configuration
		names string     // what names are made of
	}{
		{"Cyrus 3.6", mbox.OrderDB, mbox.OrderDB, `user\.[ab]([-. ^(][ab])?([-. ^][ab])?|d!user\.[ab]([-. ^][ab])?|[ad]\.x`},
		{"Cyrus 3.4", mbox.OrderOctet, mbox.OrderDB, `user\.[ab]([-. ^(][ab])?([-. ^][ab])?|d!user\.[ab]([-. ^][ab])?|[ad]\.x`},
		{"Cyrus 3.4, configured", mbox.OrderOctet, mbox.OrderOctet, `user\.[ab]([-. ^(][ab])?([-. ^][ab])?|d!user\.[ab]([-. ^][ab])?|[ad]\.x`},
		{"Cyrus 3.6, configured as 3.4", mbox.OrderDB, mbox.OrderOctet, `user\.[ab]([-. ^(0][ab])?([-. ^][ab])?|d!user\.[ab]([-. ^][ab])?|[ad]\.x`},
		{"Cyrus 3.6, configured as mboxsort", mbox.OrderDB, mbox.OrderMboxsort, `user\.[ab]([-. ^(0][ab])?([-. ^][ab])?|d!user\.[ab]([-. ^][ab])?|[ad]\.x`},
		{"mboxsort", mbox.OrderMboxsort, mbox.OrderDB, `user\.[ab]([-. ^(][ab])?([-. ^][ab])?`},
		{"mboxsort, configured", mbox.OrderMboxsort, mbox.OrderMboxsort, `user\.[ab]([-. ^(][ab])?([-. ^][ab])?|d!user\.[ab]([-. ^][ab])?|[ad]\.x`},
	} {
		t.Run(c.what, func(t *testing.T) {
			rapid.Check(t, func(r *rapid.T) {
				unified := rapid.Bool().Draw(r, "unified")
				dir := newMemory()
				slave, want := map[mbox.Name]mbox.Location{}, map[mbox.Name]mbox.Location{}
				for _, n := range rapid.SliceOfNDistinct(rapid.StringMatching(c.names), 0, 12, rapid.ID).Draw(r, "names") {
					e := mbox.Entry{Name: mbox.Name(n), ACL: acl, State: mbox.Active,
						Location: mbox.At(mbox.Server(rapid.SampledFrom([]string{"a.example", "b.example"}).Draw(r, "server")), "p")}
					own := unified && e.Location.Server() == "a.example"
					switch rapid.IntRange(0, 2).Draw(r, "state") {
					case 0: // deleted since; a server deletes its own mailboxes itself
						dir.have(e, mbox.Entry{Name: e.Name})
						if !own {
							slave[e.Name] = e.Location
						}
					case 1: // new, but not to the server that has it
						dir.have(e)
						if want[e.Name] = e.Location; own {
							slave[e.Name] = e.Location
						}
					default:
						dir.have(e)
						slave[e.Name], want[e.Name] = e.Location, e.Location
					}
				}
				if rapid.Bool().Draw(r, "forgetful") { // too many were deleted for all to be remembered
					dir.forgetful = true
					clear(dir.owners)
				}
				dump, rows := follow(t, dir, c.told, unified)
				own := mbox.Server("")
				if unified {
					own = "a.example"
				}
				merge(slave, c.local, own, dump)
				for _, e := range rows {
					slave[e.Name] = e.Location
				}
				if !maps.Equal(slave, want) {
					r.Errorf("the slave has %v, want %v; dump %v, then %v", slave, want, dump, rows)
				}
			})
		})
	}
}

// follow returns what a server sends a follower before and after the OK of an UPDATE.
func follow(t *testing.T, dir *memory, order mbox.Order, unified bool) (dump, rows []mbox.Entry) {
	t.Helper()
	cfg := testConfig(t, dir)
	source, err := testUsers()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Auth = auth.NewMechanisms(auth.Config{Source: source, Mechs: []string{"PLAIN"}, AllowPlaintext: true})
	cfg.Logger = slog.New(slog.DiscardHandler)
	cfg.Identities["be-a"] = Identity{Role: Backend, Servers: []mbox.Server{"a.example"}, Order: order, Unified: unified}
	s := New(cfg)
	defer s.Shutdown(t.Context())
	near, far := net.Pipe()
	defer near.Close()
	s.admit(far)
	d := &dialogue{nc: near, r: bufio.NewReader(near)}
	if err := d.login("be-a"); err != nil {
		t.Fatal(err)
	}
	go d.send("U01 UPDATE\r\nN1 NOOP\r\n")
	for synced := false; ; {
		line, err := d.line()
		switch {
		case err != nil:
			t.Fatal(err)
		case strings.HasPrefix(line, "U01 OK"):
			synced = true
			continue
		case strings.HasPrefix(line, "N1 OK"):
			go d.send("Q1 LOGOUT\r\n")
			d.line()
			return dump, rows
		}
		words := strings.Split(line, `"`)
		e := mbox.Entry{Name: mbox.Name(words[1]), Location: mbox.Location(words[3])}
		if line != fmt.Sprintf("U01 MAILBOX %q %q \"u\tl\t\"", e.Name, e.Location) {
			t.Fatalf("row %q", line)
		}
		if synced {
			rows = append(rows, e)
		} else {
			dump = append(dump, e)
		}
	}
}
