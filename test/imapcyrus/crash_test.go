//go:build cyrus

package imapcyrus

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"murder/test/cyrus"
	"murder/test/imapline"
)

// 96, 97: $MURDER_ROUNDS times, by default 6, messages are moved from be1 to be2 while one of the three servers that take part is killed at
// any moment. No message is lost, whatever the client is told, and what it is told is true.
func TestKilledWhileMoving(t *testing.T) {
	admin := direct(t, world.Be2, "cyrus")
	admin.ok("CREATE crash")
	admin.ok("SETACL crash anyone lrswipte")
	const messages = 3
	filler := strings.Repeat(strings.Repeat("x", 76)+"\r\n", 30_000) // 2.3 MB
	where := func(n *cyrus.Node, mailbox, id string) int {
		t.Helper()
		c := direct(t, n, "erin")
		c.ok("EXAMINE %s", imapline.Quote(mailbox))
		lines := c.ok("SEARCH HEADER MESSAGE-ID <%s@example.com>", id)
		c.Close()
		return len(strings.Fields(lines[0])) - 2
	}
	told := map[string]int{}
	for round := range setting("MURDER_ROUNDS", 6) {
		who := []string{"f2", "be1", "be2"}[round%3]
		from := fmt.Sprintf("Crash%d", round)
		e := dial(t, world.F2, "erin")
		e.ok("CREATE %s", from)
		var ids []string
		for i := range messages {
			id := fmt.Sprintf("crash-%d-%d", round, i)
			ids = append(ids, id)
			e.append(from, message(id)+filler)
		}
		e.ok("SELECT %s", from)
		tag, err := e.Send(`MOVE 1:* "Shared Folders/crash"`)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.IntN(120)) * time.Millisecond)
		switch who {
		case "f2":
			err = world.Cluster.Kill("f2")
		case "be1":
			world.Be1.Kill()
		case "be2":
			world.Be2.Kill()
		}
		if err != nil {
			t.Fatal(err)
		}
		r, err := e.Answer(tag)
		answer := r.Status + " " + r.Text
		if err != nil {
			answer = "the end"
		}
		told[who+": "+answer]++
		// Who has the mailbox open on another server than that which is lost goes on.
		if !like("OK [COPYUID ...", answer) && !like("NO [UNAVAILABLE] ...", answer) && (who == "be2" || answer != "the end") {
			t.Errorf("%s killed, and the client was told %q", who, answer)
		}
		if who == "be2" {
			e.ok("NOOP")
		}
		switch who {
		case "f2":
			err = world.Cluster.Start("f2")
		case "be1":
			err = world.Be1.Start()
		case "be2":
			err = world.Be2.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		copied := 0
		for _, id := range ids {
			here, there := where(world.Be1, from, id), where(world.Be2, "Shared Folders/crash", id)
			if here+there == 0 || there > 1 || strings.HasPrefix(answer, "OK") && (here != 0 || there != 1) {
				t.Errorf("%s killed, the client was told %q: %s is %d times here, %d there", who, answer, id, here, there)
			}
			copied += there
		}
		if copied != 0 && copied != messages {
			t.Errorf("%s killed, the client was told %q: %d of %d were copied", who, answer, copied, messages)
		}
		eventually(t, "both backends are used again", func() bool {
			r, err := at(t, "erin").Conn.Do(`LIST "" "*" RETURN (STATUS (MESSAGES))`)
			return err == nil && !strings.Contains(strings.Join(r.Lines, " "), "UNAVAILABLE")
		})
	}
	t.Logf("%v", told)
}

// 95: another session removes messages during a slow COPY to another server.
func TestExpungedWhileCopying(t *testing.T) {
	admin := direct(t, world.Be2, "cyrus")
	admin.ok("CREATE copies")
	admin.ok("SETACL copies anyone lrswipte")
	e, other := at(t, "erin"), direct(t, world.Be1, "erin")
	e.ok("CREATE Slow")
	const n = 60
	filler := strings.Repeat(strings.Repeat("y", 76)+"\r\n", 3000)
	for i := range n {
		e.append("Slow", message(fmt.Sprint("slow-", i))+filler)
	}
	e.ok("SELECT Slow")
	other.ok("SELECT Slow")
	tag, err := e.Send(`COPY 1:* "Shared Folders/copies"`)
	if err != nil {
		t.Fatal(err)
	}
	for i := 2; i < n; i += 5 {
		other.ok(`UID STORE %d +FLAGS.SILENT (\Deleted)`, i)
		other.ok("UID EXPUNGE %d", i)
	}
	r, err := e.Answer(tag)
	if err != nil || r.Status != "OK" || !like("[COPYUID ...", r.Text) {
		t.Fatalf("%s %s %v", r.Status, r.Text, err)
	}
	fields := strings.Fields(strings.Trim(strings.Split(r.Text, "]")[0], "[]"))
	source, dest := count(fields[2]), count(fields[3])
	has(t, e.ok(`STATUS "Shared Folders/copies" (MESSAGES)`), fmt.Sprintf("...MESSAGES %d...", dest))
	if source != dest || dest < n-n/5-1 || dest > n {
		t.Errorf("%d copied as %d: %s", source, dest, r.Text)
	}
	e.ok("NOOP")
	t.Logf("%d of %d copied while %d were removed", dest, n, n/5)
}

// count is how many numbers a set holds.
func count(set string) (n int) {
	for part := range strings.SplitSeq(set, ",") {
		from, to, ranged := strings.Cut(part, ":")
		a, _ := strconv.Atoi(from)
		z := a
		if ranged {
			z, _ = strconv.Atoi(to)
		}
		n += z - a + 1
	}
	return n
}

// 110: the backend dies in the middle of a message: the connection ends, and nothing is made up.
func TestKilledWithinLiteral(t *testing.T) {
	c := at(t, "frank")
	c.ok("CREATE Large")
	body := "Subject: large\r\n\r\n" + strings.Repeat(strings.Repeat("0123456789abcdef", 4)+"\r\n", 320_000) // 21 MB
	c.ok("APPEND Large {%d+}\r\n%s", len(body), body)
	nc, err := net.Dial("tcp", world.F1)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.(*net.TCPConn).SetReadBuffer(64 << 10)
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReader(nc)
	fmt.Fprintf(nc, "a LOGIN frank %s\r\nb SELECT Large\r\nc FETCH 1 BODY.PEEK[]\r\n", Password)
	for line := ""; !strings.HasPrefix(line, "* 1 FETCH"); {
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.CopyN(io.Discard, r, 100_000); err != nil {
		t.Fatal(err)
	}
	world.Be1.Kill()
	rest, _ := io.ReadAll(r)
	if strings.Contains(string(rest), "c OK") || strings.Contains(string(rest), "c NO") || strings.Contains(string(rest), "BYE") || len(rest) >= len(body)-100_000 {
		t.Errorf("%d octets more, the last are %q", len(rest), rest[max(0, len(rest)-80):])
	}
	if !strings.HasPrefix(body[100_000:], string(rest)) {
		t.Error("what came is not the message")
	}
	if err := world.Be1.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the message can be read again", func() bool {
		r, err := at(t, "frank").Conn.Do("STATUS Large (MESSAGES)")
		return err == nil && r.Status == "OK"
	})
}
