package imap

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/flate"

	"murder/internal/mbox"
)

func TestSTARTTLSDropsWhatFollows(t *testing.T) {
	r := newRig(t, func(c *Config) { c.TLS = selfSigned(t) })
	d := r.open("A")
	d.expect("* OK [...STARTTLS...")
	d.raw("a STARTTLS\r\nb NOOP\r\n")
	d.expect("a OK ...")
	conn := tls.Client(d.conn, &tls.Config{InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	d.conn, d.r = conn, bufio.NewReader(conn)
	d.send("c CAPABILITY")
	if got := d.expect("* CAPABILITY ..."); strings.Contains(got, "STARTTLS") {
		t.Errorf("offered again: %s", got)
	}
	d.expect("c OK ...")
	d.send("d STARTTLS")
	d.expect("d BAD ...")
	d.send("e LOGIN alice pw")
	d.expect("e OK ...")
	d.send("f SELECT INBOX")
	d.until("f")
	d.send("g FETCH 1:3 BODY[]")
	if lines := d.until("g"); len(lines) != 7 {
		t.Errorf("got %q", lines)
	}
}

func TestCompress(t *testing.T) {
	r := newRig(t)
	big := strings.Repeat("0123456789abcdef", 1<<16)
	r.stubs["b1"].add("user.alice.Big", "alice\tlrswip\t", big)
	d := r.login("A", "alice")
	d.send("a COMPRESS DEFLATE")
	d.expect("a OK ...")
	w, err := flate.NewWriter(d.conn, 1)
	if err != nil {
		t.Fatal(err)
	}
	d.r = bufio.NewReader(flate.NewReader(d.conn))
	say := func(line string) { io.WriteString(w, line+"\r\n"); w.Flush() }
	say("b SELECT Big")
	d.until("b")
	say("c FETCH 1 BODY[]")
	d.expect("* 1 FETCH (UID 1 BODY[] {1048576}")
	body := make([]byte, len(big))
	if _, err := io.ReadFull(d.r, body); err != nil || string(body) != big {
		t.Fatal("body differs", err)
	}
	d.until("c")
	say("d COMPRESS DEFLATE")
	d.expect("d NO [COMPRESSIONACTIVE] ...")
}

// News of the mailbox that come while compression begins are compressed if they come after the answer.
func TestCompressWithNews(t *testing.T) {
	r := newRig(t)
	for i := range 150 {
		d := r.login(fmt.Sprint(i), "alice")
		d.send("s SELECT INBOX")
		d.until("s")
		stop := make(chan struct{})
		var world sync.WaitGroup
		world.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					r.stubs["b1"].tell("* 7 EXISTS")
					time.Sleep(20 * time.Microsecond)
				}
			}
		})
		d.send("a COMPRESS DEFLATE")
		d.until("a")
		d.r = bufio.NewReader(flate.NewReader(d.r))
		for range 10 {
			d.expect("* 7 EXISTS")
		}
		close(stop)
		world.Wait()
		d.conn.Close()
	}
}

// ENABLE is answered once and replayed, before anything else, on a backend opened later.
func TestEnableReplay(t *testing.T) {
	r := newRig(t)
	warm := r.login("W", "alice") // so that the frontend knows what the backends can do
	warm.send("a STATUS INBOX (MESSAGES)")
	warm.until("a")
	warm.send("b STATUS \"Shared Folders/shared\" (MESSAGES)")
	warm.until("b")
	d := r.login("A", "alice")
	d.send("a SELECT INBOX")
	d.until("a")
	d.send("b ENABLE QRESYNC X-UNKNOWN")
	d.expect("* ENABLED QRESYNC")
	d.expect("b OK ...")
	if !r.stubs["b1"].saw("alice: ENABLE QRESYNC") {
		t.Error("not enabled where a connection was open")
	}
	d.send(`c SELECT "Shared Folders/shared"`)
	for _, line := range d.until("c") {
		if strings.Contains(line, "ENABLED") {
			t.Errorf("client got %q", line)
		}
	}
	if !r.stubs["b2"].saw("alice: ENABLE QRESYNC") {
		t.Error("not replayed")
	}
}

func TestCapabilityIntersection(t *testing.T) {
	table := newCapTable([]string{"XLIST"}, 0)
	if got := table.offered(); got.capSet != nil || !strings.Contains(got.text, "NAMESPACE") {
		t.Errorf("offered before anything is known: %v", got)
	}
	table.learn("b1", parseCaps("IMAP4rev1 QRESYNC CONDSTORE MOVE XLIST MUPDATE=x URLAUTH APPENDLIMIT=100 SORT SORT=DISPLAY AUTH=PLAIN UIDONLY"))
	table.learn("b2", parseCaps("IMAP4rev1 CONDSTORE MOVE XLIST MUPDATE=y URLAUTH APPENDLIMIT=50 SORT UIDONLY"))
	got := table.offered()
	for _, name := range []string{"CONDSTORE", "MOVE", "SORT", "APPENDLIMIT=50", "XLIST"} {
		if !got.has(name) {
			t.Errorf("%s is missing in %v", name, got)
		}
	}
	for _, name := range []string{"QRESYNC", "MUPDATE=X", "URLAUTH", "SORT=DISPLAY", "APPENDLIMIT=100", "AUTH=PLAIN", "UIDONLY"} {
		if got.has(name) {
			t.Errorf("%s is offered", name)
		}
	}
	if strings.Contains(got.text, "XLIST") || !strings.Contains(got.text, " MOVE") {
		t.Errorf("told: %s", got.text)
	}
}

// Messages far larger than any buffer pass in both directions and are kept nowhere, and a client that
// does not read stops the backend.
func TestLargeMessage(t *testing.T) {
	r := newRig(t)
	b1 := r.stubs["b1"]
	d := r.login("A", "alice")
	d.send("a SELECT INBOX")
	d.until("a")
	block := make([]byte, 1<<16)
	const most = 512 << 10
	held := growth(most)
	check := func(what string) {
		t.Helper()
		if grown := held(); grown > most {
			t.Errorf("%s: %d KiB are held", what, grown>>10)
		}
	}
	b1.fail("APPEND{", "sink")
	d.send(fmt.Sprintf("b APPEND INBOX {%d}", gushSize))
	d.expect("+ ...")
	d.conn.SetWriteDeadline(time.Now().Add(time.Minute))
	for sent := 0; sent < gushSize; sent += len(block) {
		if _, err := d.conn.Write(block); err != nil {
			t.Fatal(err)
		}
		if sent%(32<<20) == 0 {
			check("append")
		}
	}
	d.send("")
	d.expect("b OK sunk")
	b1.fail("FETCH", "gush")
	d.send("c FETCH 1 BODY[]")
	d.expect("* 1 FETCH ...")
	progress := func() int { b1.mu.Lock(); defer b1.mu.Unlock(); return b1.gushed }
	// Nobody reads: the backend comes to a stand after the kernel's buffers are full.
	last := -1
	eventually(t, "the backend stands", func() bool {
		time.Sleep(50 * time.Millisecond)
		at := progress()
		stands := at == last
		last = at
		return stands
	})
	if last > gushSize/2 {
		t.Errorf("the backend got rid of %d MiB", last>>20)
	}
	check("throttled fetch")
	d.conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.CopyN(io.Discard, d.r, gushSize); err != nil {
		t.Fatal(err)
	}
	check("fetch")
	d.expect(")")
	d.expect("c OK done")
}

// growth returns how to see by how much the heap has grown. What is garbage by the next of several looks is not
// held; there are no more of them when it is less than enough.
func growth(enough int64) func() int64 {
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	return func() (grown int64) {
		for range 5 {
			runtime.GC()
			runtime.ReadMemStats(&now)
			if grown = int64(now.HeapAlloc) - int64(before.HeapAlloc); grown < enough {
				break
			}
		}
		return grown
	}
}

// 88: many large messages on their way at a time need two buffers each, and no more.
func TestManyLargeMessages(t *testing.T) {
	const clients, size = 100, 4 << 20
	// Two for each, and some for what the backend in this process needs and the collector has not seen yet.
	const most = clients * 5 * chunk / 2
	r := newRig(t)
	var all []*dialogue
	for i := range clients {
		d := r.login(fmt.Sprint(i), "alice")
		r.stubs["b1"].fail("APPEND{", "sink")
		d.send(fmt.Sprintf("b APPEND INBOX {%d}", size))
		d.expect("+ ...")
		all = append(all, d)
	}
	held := growth(most)
	block := make([]byte, 1<<16)
	var sending sync.WaitGroup
	for _, d := range all {
		sending.Go(func() {
			d.conn.SetWriteDeadline(time.Now().Add(time.Minute))
			for range size / len(block) {
				if _, err := d.conn.Write(block); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	sent := make(chan struct{})
	go func() { sending.Wait(); close(sent) }()
	for on := true; on; {
		select {
		case <-sent:
			on = false
		default:
		}
		if grown := held(); grown > most {
			t.Fatalf("%d KiB each", grown/clients>>10)
		}
	}
	for _, d := range all {
		d.send("")
		d.expect("b OK sunk")
	}
}

// A client that floods and does not read is stopped after a bounded number of commands, and everything
// it has sent is done in order.
func TestClientFloods(t *testing.T) {
	r := newRig(t)
	r.stubs["b1"].add("user.alice.Big", "alice\tlrswip\t", strings.Repeat("x", 20_000))
	d := r.login("A", "alice")
	d.send("s SELECT Big")
	d.until("s")
	const n = 2000
	go func() {
		w := bufio.NewWriter(d.conn)
		for i := range n {
			fmt.Fprintf(w, "t%d FETCH 1 BODY[]\r\n", i)
		}
		w.Flush()
	}()
	done := func() int { b := r.stubs["b1"]; b.mu.Lock(); defer b.mu.Unlock(); return len(b.seen) }
	last := -1
	eventually(t, "everything stands", func() bool {
		time.Sleep(100 * time.Millisecond)
		at := done()
		stands := at == last
		last = at
		return stands
	})
	if last >= n {
		t.Error("the client was not stopped")
	}
	for _, c := range r.connsAt("b1") {
		c.mu.Lock()
		if len(c.queue) > maxPipelined {
			t.Errorf("%d commands wait for answers", len(c.queue))
		}
		c.mu.Unlock()
	}
	for i := range n {
		if lines := d.until(fmt.Sprintf("t%d", i)); len(lines) != 3 {
			t.Fatalf("%q", lines)
		}
	}
}

// Commands that come in one piece go on in one piece, whatever becomes of those between and behind them.
func TestPipelineIsGathered(t *testing.T) {
	r := newRig(t)
	d := r.login("A", "alice")
	d.send("a SELECT INBOX")
	d.until("a")
	var sent writes
	for _, c := range r.connsAt("b1") {
		sent.Writer, c.out.dst = c.out.dst, &sent
	}
	d.raw("b NOOP\r\nc NOOP with an argument\r\nd FETCH 1 FLAGS\r\ne CHECK\r\nf NOOP with an argument\r\n")
	for _, tag := range []string{"c", "f"} {
		d.expect(tag + " BAD ...")
	}
	d.until("e")
	if want := []string{"b NOOP\r\nd FETCH 1 FLAGS\r\ne CHECK\r\n"}; !slices.Equal(sent.list, want) {
		t.Errorf("%q", sent.list)
	}
}

// writes are what has been written, piece by piece.
type writes struct {
	io.Writer
	list []string
}

func (w *writes) Write(p []byte) (int, error) {
	w.list = append(w.list, string(p))
	return w.Writer.Write(p)
}

func TestKickAndSessions(t *testing.T) {
	r := newRig(t)
	d := r.login("A", "alice")
	d.send("a SELECT INBOX")
	d.until("a")
	list := r.srv.Sessions()
	if len(list) != 1 || list[0].User != "alice" || list[0].Backend != "b1" || list[0].Mailbox != "INBOX" {
		t.Fatalf("%+v", list)
	}
	if r.srv.Kick("nobody", "") {
		t.Error("kicked nobody")
	}
	if !r.srv.Kick(list[0].ID, "Go away") {
		t.Error("not kicked")
	}
	d.expect("* BYE [UNAVAILABLE] Go away")
	d.end()
	eventually(t, "the session is gone", func() bool { return len(r.srv.Sessions()) == 0 })
}

func TestLimits(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Limits.Connections, c.Limits.PreAuth, c.Limits.Line = 2, 150*time.Millisecond, 1000
	})
	d := r.login("A", "alice")
	late := r.open("L")
	late.expect("* OK ...")
	over := r.open("O")
	over.expect("* BYE [UNAVAILABLE] ...too many connections...")
	late.expect("* BYE Idle for too long")
	d.send("b NOOP")
	d.expect("b OK ...")
	d.send("a " + strings.Repeat("x", 1001))
	d.expect("* BYE Line too long")
	d.end()
}

func TestNotSynced(t *testing.T) {
	r := newRig(t)
	r.dir.mu.Lock()
	r.dir.unsynced = true
	r.dir.mu.Unlock()
	d := r.open("A")
	d.expect("* BYE [UNAVAILABLE] ...")
	d.end()
}

// A busy session finishes its command before a shutdown ends it.
func TestShutdownLetsFinish(t *testing.T) {
	r := newRig(t)
	d := r.login("A", "alice")
	d.send("a APPEND INBOX {5}")
	d.expect("+ ...")
	idle := r.login("B", "alice")
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		done <- r.srv.Shutdown(ctx)
	}()
	idle.expect("* BYE [UNAVAILABLE] ...")
	d.send("hello")
	d.expect("a OK ...")
	d.expect("* BYE [UNAVAILABLE] ...")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A panic in one session ends that session.
func TestPanicIsContained(t *testing.T) {
	r := newRig(t)
	other := r.login("A", "alice")
	d := r.login("B", "alice")
	d.send("a XPANIC")
	d.end()
	d = r.login("B", "alice")
	d.send("s SELECT INBOX")
	d.until("s")
	d.send("a XPUMP")
	d.end()
	eventually(t, "both are gone", func() bool { return len(r.srv.Sessions()) == 1 })
	other.send("b NOOP")
	other.expect("b OK ...")
}

// A miss costs a barrier, a hit none, and a change one before the client hears of it.
func TestBarriers(t *testing.T) {
	r := newRig(t)
	d := r.login("A", "alice")
	for _, c := range []struct {
		cmd  string
		want int
	}{
		{"STATUS INBOX (MESSAGES)", 0}, {"STATUS nosuch (MESSAGES)", 1}, {"LIST \"\" \"*\"", 1},
		{"CREATE New", 2}, {"STATUS New (MESSAGES)", 0}, {"SETACL New bob lr", 1}, {"MYRIGHTS New", 1}, {"CREATE New", 1},
	} {
		before := r.dir.count()
		d.send("a " + c.cmd)
		d.until("a")
		if got := r.dir.count() - before; got != c.want {
			t.Errorf("%s: %d barriers, want %d", c.cmd, got, c.want)
		}
	}
	// Created elsewhere a moment ago: the barrier brings it.
	r.dir.mu.Lock()
	r.dir.onBarrier = func() { r.dir.set("user.alice.Elsewhere", "b1!default", "alice\tlrs\t") }
	r.dir.mu.Unlock()
	d.send("b MYRIGHTS Elsewhere")
	d.expect("* MYRIGHTS Elsewhere ...")
	d.expect("b OK ...")
}

// A reserved name that is being moved is waited for.
func TestMoveWait(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		transfer := func() {
			r.dir.mu.Lock()
			defer r.dir.mu.Unlock()
			r.dir.put(mbox.Entry{Name: "user.alice.Work", Location: "b1!default", State: mbox.Reserved, Transfer: true})
		}
		transfer()
		d.send("a LIST \"\" Work")
		d.expect(`* LIST ...`)
		d.expect("a OK ...")
		d.send("b STATUS Work (MESSAGES)")
		d.expect("b NO [UNAVAILABLE] The mailbox is being moved...")
		d.send("c STATUS Work (MESSAGES)")
		synctest.Wait() // it waits
		r.dir.set("user.alice.Work", "b1!default", "alice\tlrswip\t")
		d.expect("* STATUS ...")
		d.expect("c OK ...")
	})
}

// Own tags are compared whole; a client may use tags that look like them.
func TestTags(t *testing.T) {
	r := newRig(t)
	d := r.login("A", "alice")
	for _, tag := range []string{"PROXY1", "X", ".m7Q2-17", "*x"[1:], "A1"} {
		d.send(tag + " SELECT INBOX")
		d.until(tag)
		d.send(tag + ` STATUS "Shared Folders/shared" (MESSAGES)`)
		d.expect("* STATUS ...")
		d.expect(tag + " OK ...")
	}
	var own string
	r.stubs["b1"].mu.Lock()
	for _, seen := range r.stubs["b1"].tags {
		if i := strings.IndexByte(seen, '-'); i > 0 && len(seen) > 8 {
			own = seen[:i+1]
		}
	}
	r.stubs["b1"].mu.Unlock()
	if own == "" {
		t.Fatal("no tag of our own was seen")
	}
	for i := range 12 {
		tag := fmt.Sprint(own, i)
		d.send(tag + " NOOP")
		d.expect(tag + " OK ...")
		d.send(tag + ` SELECT "Shared Folders/shared"`)
		d.until(tag)
		d.send(tag + ` SELECT INBOX`)
		d.until(tag)
	}
}

// An idle session with a mailbox selected has no goroutine, no large buffer, and no descriptor but those of its two sockets.
func TestIdleCost(t *testing.T) {
	r := rigOptions{hot: 20 * time.Millisecond}.make(t)
	const n = 50
	count := func() int { return runtime.NumGoroutine() }
	warm := r.login("W", "carol")
	warm.send("a SELECT INBOX")
	warm.until("a")
	descriptors := func() int { list, _ := os.ReadDir("/proc/self/fd"); return len(list) }
	before, opened := count(), descriptors()
	for i := range n {
		d := r.login(fmt.Sprint("s", i), "alice")
		d.send("a SELECT INBOX")
		d.until("a")
	}
	// One in the stub for each, and here one for all of them.
	most := n + 1
	if r.srv.lot == nil {
		most = 3 * n
	}
	eventually(t, "goroutines settle", func() bool { return count()-before <= most })
	if grown := descriptors() - opened; grown > 4*n { // the other ends are in this process, too
		t.Errorf("%d descriptors for %d sessions", grown, n)
	}
	r.srv.mu.Lock()
	defer r.srv.mu.Unlock()
	for _, s := range r.srv.sessions {
		s.out.Lock()
		if s.out.pool != nil {
			t.Error("an idle session holds a buffer")
		}
		s.out.Unlock()
	}
}

// A storm of random commands on one session: every command gets its answer, in order.
func TestPipelineStorm(t *testing.T) {
	// BAD for want of a mailbox is right at times.
	r := newRig(t, func(c *Config) { c.Limits.BadLines = 1000 })
	d := r.login("A", "alice")
	var out bytes.Buffer
	cmds := []string{"NOOP", "SELECT INBOX", `SELECT "Shared Folders/shared"`, "FETCH 1:* FLAGS", `STATUS "Shared Folders/shared" (MESSAGES)`,
		"STATUS INBOX (MESSAGES)", "LIST \"\" \"*\"", "SEARCH ALL", "UNSELECT", "APPEND Work {3+}\r\nabc", "SEARCH TEXT {3+}\r\nfoo", "FETCH 1 BODY[]"}
	const n = 300
	for i := range n {
		fmt.Fprintf(&out, "t%d %s\r\n", i, cmds[rand.N(len(cmds))])
	}
	go d.conn.Write(out.Bytes())
	for i := range n {
		for _, line := range d.until(fmt.Sprintf("t%d", i)) {
			if strings.HasPrefix(line, "t") && !strings.HasPrefix(line, fmt.Sprintf("t%d ", i)) {
				t.Fatalf("%q before the answer to t%d", line, i)
			}
			if strings.Contains(line, "UNAVAILABLE") {
				t.Fatal(line)
			}
		}
	}
}

func TestLimitPerUser(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Limits.PerUser = 1 })
	first := r.login("A", "alice")
	second := r.open("B")
	second.expect("* OK ...")
	second.send("a LOGIN alice pw")
	second.expect("a NO [LIMIT] ...")
	second.send("b LOGIN bob pw")
	second.expect("b OK ...")
	r.login("C", "cyrus")
	r.login("D", "cyrus")
	first.send("a UNAUTHENTICATE")
	first.expect("a OK ...")
	r.login("E", "alice")
	first.send("b LOGIN alice pw")
	first.expect("b NO [LIMIT] ...")
}

// A compressed session that has been silent for a while, so that reads have ended by their deadline,
// still works.
func TestCompressedAndSilent(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Limits.BackendIdle = 20 * time.Millisecond })
	d := r.login("A", "alice")
	d.send("a STATUS INBOX (MESSAGES)")
	d.until("a")
	d.send("b COMPRESS DEFLATE")
	d.expect("b OK ...")
	w, err := flate.NewWriter(d.conn, 1)
	if err != nil {
		t.Fatal(err)
	}
	d.r = bufio.NewReader(flate.NewReader(d.conn))
	say := func(line string) { io.WriteString(w, line+"\r\n"); w.Flush() }
	say("c STATUS INBOX (MESSAGES)")
	d.until("c")
	eventually(t, "the unused connection is closed", func() bool { return len(r.srv.Sessions()[0].Backends) == 0 })
	say("d STATUS INBOX (MESSAGES)")
	d.expect("* STATUS ...")
	d.expect("d OK ...")
}

// What mbsync sent in one go: eight commands in a block with codes of its own, and three bits of the
// empty block behind it. They are all answered before anything more comes.
func TestCompressPartialFlushOfManyCommands(t *testing.T) {
	r := newRig(t, func(*Config) {})
	d := r.login("A", "alice")
	d.send("a COMPRESS DEFLATE")
	d.expect("a OK ...")
	d.r = bufio.NewReader(flate.NewReader(d.conn))
	octets, err := os.ReadFile("testdata/compress/partial-flush.bin")
	if err != nil {
		t.Fatal(err)
	}
	d.raw(string(octets))
	d.until("37")
}

// A client may end what it sends with an empty block instead of a marker, as zlib's Z_PARTIAL_FLUSH
// does, and be silent after it for longer than a read lasts.
func TestCompressPartialFlush(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Limits.BackendIdle = 20 * time.Millisecond })
	d := r.login("A", "alice")
	d.send("a STATUS INBOX (MESSAGES)")
	d.until("a")
	d.send("b COMPRESS DEFLATE")
	d.expect("b OK ...")
	d.r = bufio.NewReader(flate.NewReader(d.conn))
	for _, step := range []struct{ octets, want string }{{"2a50f0f3f70fe0e50208", "p OK Completed"}, {"a042280d10", "q OK Completed"}} {
		p, err := hex.DecodeString(step.octets)
		if err != nil {
			t.Fatal(err)
		}
		d.raw(string(p))
		d.expect(step.want)
		eventually(t, "the unused connection is closed", func() bool { return len(r.srv.Sessions()[0].Backends) == 0 })
	}
}
