//go:build cyrus

package imapcyrus

import (
	"bufio"
	"compress/flate"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"murder/test/cyrus"
)

func TestMessages(t *testing.T) {
	e, d := at(t, "erin"), direct(t, world.Be1, "erin")
	shared := direct(t, world.Be2, "cyrus")
	shared.ok("CREATE pool")
	shared.ok("SETACL pool anyone lrswipte")
	const pool = `"Shared Folders/pool"`
	t.Run("85 APPEND in every form", func(t *testing.T) {
		m := message("literal")
		for _, c := range []*client{e, d} {
			c.do("OK [APPENDUID ...", "APPEND INBOX {%d+}\r\n%s", len(m), m)
			c.do("OK [APPENDUID ...", "APPEND INBOX (\\Seen $x) \"01-Feb-2026 10:00:00 +0000\" {%d+}\r\n%s", len(m), m)
			c.do("OK [APPENDUID ...:...", "APPEND INBOX {%d+}\r\n%s {%d+}\r\n%s {%d+}\r\n%s", len(m), m, len(m), m, len(m), m)
			c.do("OK [APPENDUID ...", "APPEND INBOX ~{%d+}\r\n%s", len(m), m)
		}
		// A literal that is asked for, and what is said of the place.
		var place []string
		for _, c := range []*client{e, d} {
			tag, err := c.Send("APPEND INBOX (\\Draft) {%d}", len(m))
			if err != nil {
				t.Fatal(err)
			}
			if line, err := c.Line(5 * time.Second); err != nil || !strings.HasPrefix(line, "+ ") {
				t.Fatalf("%q %v", line, err)
			}
			if err := c.Raw(m + "\r\n"); err != nil {
				t.Fatal(err)
			}
			r, err := c.Answer(tag)
			if err != nil || !like("[APPENDUID ...] Completed", r.Text) {
				t.Fatalf("%+v %v", r, err)
			}
			place = strings.Fields(strings.Trim(strings.Split(r.Text, "]")[0], "["))
			has(t, c.ok("STATUS INBOX (UIDVALIDITY)"), "* STATUS INBOX (UIDVALIDITY "+place[1]+")")
			c.ok("EXAMINE INBOX")
			has(t, c.ok("UID FETCH %s (FLAGS BODY.PEEK[])", place[2]), "* ... FETCH (FLAGS (...\\Draft) UID "+place[2]+" BODY[] ..."+m+")")
			c.ok("UNSELECT")
		}
		for _, odd := range []string{"APPEND INBOX {0+}\r\n", "APPEND INBOX (\\Seen", "APPEND INBOX {3+}\r\nabc {x}"} {
			r, err := at(t, "erin").Conn.Do("%s", odd)
			s, err2 := direct(t, world.Be1, "erin").Conn.Do("%s", odd)
			if (err == nil) != (err2 == nil) || r.Status != s.Status {
				t.Errorf("%q: %+v %v, at the backend %+v %v", odd, r, err, s, err2)
			}
		}
		e.do("NO [TRYCREATE] ...", "APPEND nosuch {5}")
		e.ok("NOOP")
	})
	t.Run("90 91 COPY to another server", func(t *testing.T) {
		e.ok("CREATE From")
		e.append("From", message("m1"), message("m2"), message("m3"), message("m4"), message("m5"))
		e.ok("SELECT From")
		e.ok(`STORE 1,3 +FLAGS.SILENT (\Deleted)`)
		e.ok("EXPUNGE")
		e.do("OK [COPYUID ... 2,4:5 1:3] ...", "COPY 1:3 %s", pool)
		from := e.ok("FETCH 1:3 (FLAGS INTERNALDATE BODY.PEEK[])")
		e.ok("SELECT %s", pool)
		for i, l := range e.ok("FETCH 1:3 (FLAGS INTERNALDATE BODY.PEEK[])") {
			strip := strings.NewReplacer(`\Recent `, "", ` \Recent`, "")
			if strip.Replace(l) != strip.Replace(from[i]) {
				t.Errorf("%q\n%q", l, from[i])
			}
		}
		e.ok("SELECT From")
		e.ok("UID COPY 999 %s", pool)
		e.do("NO [TRYCREATE]...", "COPY 1 nosuch")
	})
	t.Run("92 93 MOVE to another server", func(t *testing.T) {
		lines := e.ok("UID MOVE 2 %s", pool)
		has(t, lines, "* OK [COPYUID ... 2 4]...")
		has(t, lines, "* 1 EXPUNGE")
		has(t, e.ok("STATUS %s (MESSAGES)", pool), "...MESSAGES 4...")
		e.append("Shared Folders/shared", message("fixed"))
		e.ok("SELECT \"Shared Folders/shared\"")
		inboxes := func() string { return strings.Join(e.ok("STATUS INBOX (MESSAGES UIDNEXT)"), "") }
		before := inboxes()
		e.do("NO [NOPERM]...", "MOVE 1 INBOX")
		if now := inboxes(); now != before {
			t.Errorf("%q, then %q", before, now)
		}
		has(t, e.ok("FETCH 1 FLAGS"), "* 1 FETCH (FLAGS (...))")
		hasNot(t, e.ok("FETCH 1 FLAGS"), "...Deleted...")
		e.ok("SELECT From")
		has(t, e.ok("FETCH 1:* UID"), "* 2 FETCH...")
	})
	t.Run("94 over quota", func(t *testing.T) {
		shared.ok("CREATE small")
		shared.ok("SETACL small anyone lrswip")
		shared.ok("SETQUOTA small (STORAGE 0)")
		e.do("NO [OVERQUOTA]...", `COPY 1:2 "Shared Folders/small"`)
		has(t, shared.ok("STATUS small (MESSAGES)"), "...MESSAGES 0...")
	})
	t.Run("98 within one server", func(t *testing.T) {
		e.ok("CREATE To")
		e.do("OK [COPYUID ... 4 1]...", "COPY 1 To")
		has(t, e.ok("UID MOVE 5 To"), "* OK [COPYUID ... 5 2]...")
	})
	t.Run("100 REPLACE", func(t *testing.T) {
		m := message("replacement")
		has(t, e.ok("REPLACE 1 %s {%d+}\r\n%s", pool, len(m), m), "* OK [APPENDUID ...")
		has(t, e.ok("STATUS From (MESSAGES)"), "...MESSAGES 0...")
		has(t, e.ok("STATUS %s (MESSAGES)", pool), "...MESSAGES 5...")
		e.ok("SELECT To")
		has(t, e.ok("UID REPLACE 1 To {%d+}\r\n%s", len(m), m), "* 1 EXPUNGE")
		has(t, e.ok("UID SEARCH SUBJECT replacement"), "* SEARCH 3")
	})
	t.Run("89 CATENATE", func(t *testing.T) {
		e.ok("CREATE Parts")
		e.append("Parts", message("part"))
		head := "Subject: whole\r\n\r\n"
		e.do("OK [APPENDUID...", "APPEND %s CATENATE (TEXT {%d+}\r\n%s URL \"/Parts/;UID=1/;SECTION=TEXT\" TEXT {3+}\r\nend)", pool, len(head), head)
		e.ok("SELECT %s", pool)
		has(t, e.ok("FETCH 6 BODY.PEEK[TEXT]"), "...\r\nbody of part\r\nend)")
		e.do("NO [BADURL ...", "APPEND %s CATENATE (URL \"/Parts/;UID=99/;SECTION=TEXT\")", pool)
		e.do("OK [APPENDUID...", "APPEND Parts CATENATE (URL \"/Parts/;UID=1\" TEXT {3+}\r\nend)")
		has(t, e.ok("STATUS %s (MESSAGES)", pool), "...MESSAGES 6...")
	})
	t.Run("101 102 103 searches", func(t *testing.T) {
		e.ok("SELECT Parts")
		has(t, e.ok("SEARCH RETURN (ALL) TEXT {4+}\r\nbody"), `* ESEARCH (TAG "t...") ALL 1:2`)
		e.do("BAD...", "SEARCH BADKEY {70000}")
		began := time.Now()
		e.ok("NOOP")
		if time.Since(began) > time.Second {
			t.Error("slow after a refused literal")
		}
		lines := e.ok(`ESEARCH IN (mailboxes ("Parts" %s)) RETURN (ALL COUNT) TEXT "body"`, pool)
		has(t, lines, `* ESEARCH (TAG "t..." MAILBOX Parts UIDVALIDITY ...) UID ...ALL 1:2...`)
		has(t, lines, `* ESEARCH (TAG "t..." MAILBOX "Shared Folders/pool" UIDVALIDITY ...) UID ...ALL 1:...`)
		has(t, e.ok("FETCH 1 FLAGS"), "* 1 FETCH...") // still selected
	})
	t.Run("104 108 IDLE and news", func(t *testing.T) {
		other := direct(t, world.Be1, "erin")
		tag, err := e.Send("IDLE")
		if err != nil {
			t.Fatal(err)
		}
		if line, err := e.Line(2 * time.Second); err != nil || !strings.HasPrefix(line, "+ ") {
			t.Fatal(line, err)
		}
		other.append("Parts", message("news"))
		for line := ""; line != "* 3 EXISTS"; { // before DONE, which would bring it in any case
			if line, err = e.Line(2 * time.Second); err != nil {
				t.Fatal("no news during IDLE: ", err)
			}
		}
		if err := e.Raw("DONE\r\n"); err != nil {
			t.Fatal(err)
		}
		r, err := e.Answer(tag)
		if err != nil || r.Status != "OK" {
			t.Fatal(r, err)
		}
		other.append("Parts", message("more news"))
		e.ok("STATUS %s (MESSAGES)", pool)
		has(t, e.ok("NOOP"), "* 4 EXISTS")
		// What another session removes has its number until a command that names none.
		other.ok("SELECT Parts")
		other.ok(`STORE 2 +FLAGS.SILENT (\Deleted)`)
		other.ok("EXPUNGE")
		hasNot(t, e.ok("FETCH 1:4 UID"), "...EXPUNGE")
		hasNot(t, e.ok("STORE 1 +FLAGS (x)"), "...EXPUNGE")
		e.ok("STATUS %s (MESSAGES)", pool)
		has(t, append(e.ok("NOOP"), e.ok("FETCH 1 UID")...), "* 2 EXPUNGE")
		has(t, e.ok("FETCH 1:* UID"), "* 3 FETCH...")
	})
	t.Run("a mailbox is deleted while it is selected", func(t *testing.T) {
		// What its server says then.
		for user, node := range map[string]*cyrus.Node{"erin": world.Be1, "carol": world.Be2} {
			deletedWhileSelected(t, user, node)
		}
	})
}

// deletedWhileSelected compares what a client is told through the frontend with what the server says. That it ends without
// a word is told in ours.
func deletedWhileSelected(t *testing.T, user string, node *cyrus.Node) {
	t.Helper()
	owner := direct(t, node, user)
	var told [2][]string
	for i, reader := range []*client{at(t, user), direct(t, node, user)} {
		name := fmt.Sprint("Doomed", i) // of those deleted within a second Cyrus keeps one of a name
		owner.ok("CREATE %s", name)
		owner.append(name, message("doomed"))
		reader.ok("SELECT %s", name)
		owner.ok("DELETE %s", name)
		for _, cmd := range []string{"NOOP", "FETCH 1 FLAGS", "NOOP"} {
			r, err := reader.Conn.Do("%s", cmd)
			for _, l := range r.Lines {
				if strings.HasPrefix(l, "* BYE") {
					l = "* BYE"
				}
				told[i] = append(told[i], l)
			}
			if err != nil {
				told[i] = append(told[i], "the end")
				break
			}
			told[i] = append(told[i], r.Status)
		}
	}
	want := told[1]
	if n := len(want); want[n-1] == "the end" && (n == 1 || want[n-2] != "* BYE") {
		want = slices.Insert(want, n-1, "* BYE")
	}
	if !slices.Equal(told[0], want) {
		t.Errorf("%q, at %s %q", told[0], node.Name, told[1])
	}
	t.Logf("%s: %q", node.Name, told)
}

// 17: a message of 10 MB, compressed.
func TestCompress(t *testing.T) {
	body := "Subject: big\r\n\r\n" + strings.Repeat(strings.Repeat("0123456789abcdef", 4)+"\r\n", 160_000)
	c := at(t, "erin")
	c.ok("CREATE Big")
	c.ok("APPEND Big {%d+}\r\n%s", len(body), body)
	nc, err := net.Dial("tcp", world.F1)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReader(nc)
	expect := func(prefix string) string {
		t.Helper()
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatal(prefix, err)
			}
			if strings.HasPrefix(line, prefix) {
				return line
			}
		}
	}
	fmt.Fprintf(nc, "a LOGIN erin %s\r\nb COMPRESS DEFLATE\r\n", Password)
	expect("b OK")
	z, _ := flate.NewWriter(nc, 1)
	r = bufio.NewReader(flate.NewReader(nc))
	say := func(line string) { io.WriteString(z, line+"\r\n"); z.Flush() }
	say("c SELECT Big")
	expect("c OK")
	say("d FETCH 1 BODY.PEEK[]")
	expect("* 1 FETCH")
	got := make([]byte, len(body))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != body {
		t.Fatal("body differs", err)
	}
	expect("d OK")
	say("e COMPRESS DEFLATE")
	expect("e NO [COMPRESSIONACTIVE]")
}
