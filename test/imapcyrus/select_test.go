//go:build cyrus

package imapcyrus

import (
	"slices"
	"strings"
	"testing"

	"murder/test/imapline"
)

func TestGeneral(t *testing.T) {
	t.Run("7 capabilities", func(t *testing.T) {
		c, err := imapline.Dial(world.F1)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		told, err := c.OK("LOGIN alice %s", Password)
		if err != nil {
			t.Fatal(err)
		}
		caps := strings.TrimPrefix((&client{c, t}).ok("CAPABILITY")[0], "* CAPABILITY ")
		if !strings.HasPrefix(told.Text, "[CAPABILITY "+caps+"] ") {
			t.Errorf("LOGIN tells %q, CAPABILITY %q", told.Text, caps)
		}
		caps = " " + caps + " "
		for _, never := range []string{"MUPDATE=", "X-REPLICATION", "X-SIEVE-MAILBOX", "URLAUTH", "AUTH=", "LOGINDISABLED"} {
			if strings.Contains(caps, never) {
				t.Errorf("%s is offered: %s", never, caps)
			}
		}
		for _, name := range []string{"LITERAL+", "CONDSTORE", "QRESYNC", "MOVE", "UIDPLUS", "MULTIAPPEND", "METADATA", "SORT", "CATENATE",
			"MULTISEARCH", "REPLACE", "ESEARCH", "QUOTA", "SPECIAL-USE", "IDLE", "COMPRESS=DEFLATE", "LIST-METADATA"} {
			if !strings.Contains(caps, " "+name+" ") {
				t.Errorf("%s is missing: %s", name, caps)
			}
		}
	})
	t.Run("13 ID reaches the backend's log", func(t *testing.T) {
		c := at(t, "alice")
		if lines := c.ok(`ID ("name" "pine-cone")`); len(lines) != 1 || !like(`* ID ("name" "murder"...`, lines[0]) {
			t.Errorf("%q", lines)
		}
		c.ok("SELECT INBOX")
		eventually(t, "the name in the log, with the address", func() bool {
			return slices.ContainsFunc(world.Be1.Log(), func(line string) bool {
				return strings.Contains(line, "pine-cone") && strings.Contains(line, `"x-originating-ip" "127.`)
			})
		})
	})
	t.Run("be1 is used over TLS and without its password on the wire", func(t *testing.T) {
		at(t, "alice").ok("SELECT INBOX")
		log := strings.Join(world.Be1.Log(), "\n")
		if !strings.Contains(log, "SCRAM-SHA-256+TLS") {
			t.Errorf("no such login in the log of be1")
		}
	})
	t.Run("14 15 namespace", func(t *testing.T) {
		same(t, at(t, "alice"), direct(t, world.Be1, "alice"), "NAMESPACE")
		same(t, at(t, "cyrus"), direct(t, world.Be1, "cyrus"), "NAMESPACE")
	})
	t.Run("12 unknown verbs", func(t *testing.T) {
		c := at(t, "alice")
		for range 9 {
			c.do("BAD ...", "XYZZY")
		}
		if _, err := c.Conn.Do("XYZZY"); err != nil {
			t.Error("the tenth has no answer", err)
		}
		if _, err := c.Conn.Do("NOOP"); err == nil {
			t.Error("still there after ten unknown commands")
		}
	})
}

func TestSelect(t *testing.T) {
	a, b := at(t, "alice"), direct(t, world.Be1, "alice")
	a.append("INBOX", message("one"), message("two"))
	a.append("Shared Folders/shared", message("shared"))
	t.Run("24 same as direct", func(t *testing.T) {
		b.ok("SELECT INBOX")
		b.ok("UNSELECT")
		same(t, a, b, "SELECT INBOX")
		for _, c := range []*client{a, b} {
			c.do("OK [READ-WRITE] Completed", "SELECT INBOX")
		}
		same(t, a, b, "FETCH 1:* (UID FLAGS INTERNALDATE ENVELOPE BODYSTRUCTURE BODY.PEEK[])")
		same(t, a, b, "SORT (REVERSE SUBJECT) UTF-8 ALL")
		same(t, a, b, "THREAD REFERENCES UTF-8 ALL")
		same(t, a, b, "STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY UNSEEN)")
		b.ok("UNSELECT")
	})
	t.Run("25 26 CLOSED once", func(t *testing.T) {
		for _, name := range []string{"Shared Folders/shared", "INBOX", "INBOX"} {
			lines := a.ok("SELECT %q", name)
			n := 0
			for _, l := range lines {
				if strings.HasPrefix(l, "* OK [CLOSED]") {
					n++
				}
			}
			if n != 1 || !strings.HasPrefix(lines[0], "* OK [CLOSED]") {
				t.Errorf("%s: %d times CLOSED: %q", name, n, lines)
			}
		}
	})
	t.Run("27 nonexistent", func(t *testing.T) {
		a.do("NO [NONEXISTENT] ...", "SELECT nosuch")
		a.do("BAD ...", "FETCH 1 FLAGS")
	})
	t.Run("29 switching expunges nothing", func(t *testing.T) {
		a.ok("SELECT INBOX")
		a.ok(`STORE 2 +FLAGS (\Deleted)`)
		a.ok("SELECT \"Shared Folders/shared\"")
		has(t, b.ok("STATUS INBOX (MESSAGES)"), "...MESSAGES 2...")
		a.ok("SELECT INBOX")
		a.ok(`STORE 2 -FLAGS (\Deleted)`)
	})
	t.Run("30 EXAMINE", func(t *testing.T) {
		a.do("OK [READ-ONLY]...", "EXAMINE INBOX")
		a.do("NO...", `STORE 1 +FLAGS (\Answered)`)
	})
	t.Run("31 QRESYNC", func(t *testing.T) {
		q := at(t, "alice")
		has(t, q.ok("ENABLE QRESYNC"), "* ENABLED QRESYNC...")
		lines := q.ok("SELECT INBOX")
		code := has(t, lines, "* OK [UIDVALIDITY ...")
		validity := strings.Trim(strings.Fields(code)[3], "]")
		hasNot(t, lines, "* ENABLED...")
		d := direct(t, world.Be1, "alice")
		d.ok("ENABLE QRESYNC")
		q.ok("UNSELECT")
		hasNot(t, same(t, q, d, "SELECT INBOX (QRESYNC (%s 1 1:10))", validity), "* ENABLED...")
	})
	t.Run("32 CONDSTORE on a server opened later", func(t *testing.T) {
		q := at(t, "alice")
		q.ok("SELECT INBOX")
		q.ok("ENABLE CONDSTORE")
		q.ok("SELECT \"Shared Folders/shared\"")
		has(t, q.ok(`STORE 1 +FLAGS (\Answered)`), "* 1 FETCH ...MODSEQ...")
		q.ok(`STORE 1 -FLAGS (\Answered)`)
	})
	t.Run("33 SELECT CONDSTORE", func(t *testing.T) {
		q := at(t, "alice")
		q.ok("SELECT INBOX (CONDSTORE)")
		has(t, q.ok(`STORE 1 +FLAGS (\Answered)`), "* 1 FETCH ...MODSEQ...")
		q.ok(`STORE 1 -FLAGS (\Answered)`)
	})
	t.Run("34 rights", func(t *testing.T) {
		e := at(t, "erin")
		e.ok("CREATE peek")
		e.ok("SETACL peek alice l")
		e.ok("CREATE hidden")
		a.do("NO ...", `SELECT "Other Users/erin/peek"`)
		a.do("NO [NONEXISTENT] ...", `SELECT "Other Users/erin/hidden"`)
		a.do("NO [NONEXISTENT] ...", `SELECT "Other Users/erin/neverwas"`)
	})
	t.Run("35 pipelined", func(t *testing.T) {
		p, other := at(t, "alice"), direct(t, world.Be2, "alice")
		other.ok(`EXAMINE "Shared Folders/shared"`)
		first := other.ok("FETCH 1 ENVELOPE")[0]
		var tags []string
		for _, cmd := range []string{"SELECT INBOX", "FETCH 1 ENVELOPE", `SELECT "Shared Folders/shared"`, "FETCH 1 ENVELOPE"} {
			tag, err := p.Send("%s", cmd)
			if err != nil {
				t.Fatal(err)
			}
			tags = append(tags, tag)
		}
		for i, want := range []string{"* OK [UIDVALIDITY...", `* 1 FETCH (ENVELOPE ..."one"...`, "* OK [CLOSED]...", first} {
			r, err := p.Answer(tags[i])
			if err != nil || r.Status != "OK" {
				t.Fatal(r, err)
			}
			has(t, r.Lines, want)
		}
	})
}
