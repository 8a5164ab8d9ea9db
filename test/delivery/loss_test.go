//go:build cyrus

package delivery

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"murder/test/cyrus"
	"murder/test/lmtpline"
)

// queue is an MTA of the simplest kind: it sends every message again to whoever has not been
// confirmed, until all are.
type queue struct {
	addrs []string // frontends

	mu        sync.Mutex
	confirmed map[string]int // "ID RCPT", with the number of attempts whose outcome nobody knows
	attempts  int
	lost      int // connections
	deferred  int // replies
	bounced   []string
	progress  chan struct{} // closed and replaced at every confirmation
}

func newQueue(addrs ...string) *queue {
	return &queue{addrs: addrs, confirmed: map[string]int{}, progress: make(chan struct{})}
}

// work sends messages with the ids that it gets, from one connection after the other.
func (q *queue) work(worker int, ids <-chan int, rcptsOf func(id int) []string) {
	var c *lmtpline.Conn
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	for id := range ids {
		name := fmt.Sprintf("loss-%d", id)
		doubt := map[string]int{}
		left := rcptsOf(id)
		for try := 0; len(left) > 0; try++ {
			if try > 0 {
				time.Sleep(50 * time.Millisecond) // a queue's pause
			}
			if c == nil {
				c, _ = lmtpline.Dial(q.addrs[(worker+try)%len(q.addrs)])
				if c == nil {
					continue
				}
			}
			replies, err := c.Deliver(letter(name, "x\r\n"), left...)
			if err != nil { // it may have been stored
				c.Close()
				c = nil
			}
			left = q.note(name, left, replies, err, doubt)
		}
	}
}

// note keeps what became of an attempt and returns who has to be tried again.
func (q *queue) note(name string, rcpts []string, replies []lmtpline.Reply, err error, doubt map[string]int) (again []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.attempts++
	if err != nil {
		q.lost++
		for _, rcpt := range rcpts {
			doubt[rcpt]++
		}
		return rcpts
	}
	for i, r := range replies {
		switch r.Code / 100 {
		case 2:
			q.confirmed[name+" "+rcpts[i]] = doubt[rcpts[i]]
		case 4:
			q.deferred++
			// RFC 3463: only a lost connection or a failure without a reason leaves it open.
			if strings.HasPrefix(r.Text, "4.4.2") || strings.HasPrefix(r.Text, "4.3.") {
				doubt[rcpts[i]]++
			}
			again = append(again, rcpts[i])
		default:
			q.bounced = append(q.bounced, name+" "+rcpts[i]+": "+r.String())
		}
	}
	close(q.progress)
	q.progress = make(chan struct{})
	return again
}

// await waits for count confirmations in all.
func (q *queue) await(ctx context.Context, count int) bool {
	for {
		q.mu.Lock()
		n, progress := len(q.confirmed), q.progress
		q.mu.Unlock()
		if n >= count {
			return true
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return false
		}
	}
}

// check compares what was confirmed with what is stored: "ID RCPT" and how often.
func (q *queue) check(t *testing.T, stored map[string]int) {
	t.Helper()
	for _, b := range q.bounced {
		t.Errorf("bounced: %s", b)
	}
	missing, explained, unexplained, extra := 0, 0, 0, 0
	for key, doubts := range q.confirmed {
		switch n := stored[key]; {
		case n == 0:
			missing++
			t.Errorf("LOST: %s", key)
		case n > 1 && n-1 <= doubts:
			explained += n - 1
		case n > 1:
			unexplained++
			t.Errorf("stored %d times with %d open outcomes: %s", n, doubts, key)
		}
		extra += max(0, stored[key]-1)
	}
	t.Logf("%d deliveries confirmed in %d transactions: %d lost, %d stored twice (%d after an open outcome); %d connections broke, %d recipients were deferred",
		len(q.confirmed), q.attempts, missing, extra, explained, q.lost, q.deferred)
}

// stored counts the messages in users' mailboxes by "ID RCPT".
func stored(t testing.TB, n *cyrus.Node, admin string, users []string) map[string]int {
	t.Helper()
	all := map[string]int{}
	for _, user := range users {
		for _, header := range fetch(t, n, admin, "user."+user, "BODY.PEEK[HEADER.FIELDS (SUBJECT)]") {
			id := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(header), "Subject:"))
			all[id+" "+user]++
		}
	}
	return all
}

// Backends, frontends and the leader are killed at random while mail comes in. Whatever an MTA was
// told is delivered must be there, once; twice only if it was not told what became of an attempt.
//
// MURDER_MESSAGES=N changes the number of messages (2000).
func TestNothingIsLost(t *testing.T) {
	total := 2000
	if s := os.Getenv("MURDER_MESSAGES"); s != "" {
		var err error
		if total, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t, options{})
	const each = 10 // users on each backend
	boxes := map[*cyrus.Node][]string{}
	for i := range 2 * each {
		n, user := w.be1, fmt.Sprintf("n%d", i)
		if i%2 == 1 {
			n = w.be2
		}
		boxes[n] = append(boxes[n], user)
		w.admin(t, n, "CREATE user."+user, "SETACL user."+user+" "+w.rig.Admin()+" lrs")
	}
	q := newQueue(w.cluster.Addr("f1", "lmtp"), w.cluster.Addr("f2", "lmtp"))
	rcptsOf := func(id int) []string { // one on each backend, or only one
		a, b := boxes[w.be1][id%each], boxes[w.be2][id/each%each]
		switch id % 4 {
		case 0:
			return []string{a}
		case 1:
			return []string{b}
		}
		return []string{a, b}
	}
	ids := make(chan int)
	go func() {
		defer close(ids)
		for id := range total {
			ids <- id
		}
	}()
	var work sync.WaitGroup
	for worker := range 8 {
		work.Go(func() { q.work(worker, ids, rcptsOf) })
	}
	ctx, over := context.WithCancel(context.Background())
	go func() {
		work.Wait()
		over()
	}()
	began := time.Now()
	faults := w.torment(ctx, t, q, max(total/10, 200))
	work.Wait()
	t.Logf("%d messages in %s; killed: %v", total, time.Since(began).Round(time.Second), faults)
	all := map[string]int{}
	for n, users := range boxes {
		for key, count := range stored(t, n, w.rig.Admin(), users) {
			all[key] = count
		}
	}
	q.check(t, all)
}

// torment kills something and starts it again after every step confirmations, until ctx ends.
func (w *world) torment(ctx context.Context, t *testing.T, q *queue, step int) map[string]int {
	faults := map[string]int{}
	for at := step; q.await(ctx, at); at += step {
		what := [...]string{"backend", "backend", "frontend", "frontend", "leader"}[rand.IntN(5)]
		var err error
		switch what {
		case "backend":
			n := w.rig.Backends()[rand.IntN(2)]
			n.Kill()
			err = n.Start()
		case "frontend":
			err = w.revive(fmt.Sprintf("f%d", 1+rand.IntN(2)))
		case "leader":
			id := ""
			if id, err = w.cluster.Leader(context.Background()); err == nil {
				err = w.revive(id)
			}
		}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		faults[what]++
		q.mu.Lock()
		at = max(at, len(q.confirmed)) // what came in meanwhile does not count
		q.mu.Unlock()
	}
	return faults
}

// revive kills a node and starts it again. On a busy machine its sockets may outlive it for a moment:
// a service manager would try again, too.
func (w *world) revive(id string) error {
	if err := w.cluster.Kill(id); err != nil {
		return err
	}
	var err error
	for try := 0; try < 3; try++ {
		if err = w.cluster.Start(id); err == nil {
			break
		}
		time.Sleep(time.Second)
	}
	return err
}

// A user moves to the other backend while mail for him comes in. None of it bounces, and all that was
// confirmed is at the new place.
func TestMailDuringAMove(t *testing.T) {
	w := newWorld(t, options{})
	w.admin(t, w.be1, "SETACL user.dave "+w.rig.Admin()+" lrswipkxtecda")
	for i := range 30 {
		w.admin(t, w.be1, fmt.Sprintf("CREATE user.dave.f%d", i))
	}
	q := newQueue(w.cluster.Addr("f1", "lmtp"), w.cluster.Addr("f2", "lmtp"))
	ids := make(chan int)
	var work sync.WaitGroup
	for worker := range 4 {
		work.Go(func() { q.work(worker, ids, func(int) []string { return []string{"dave", "carol"} }) })
	}
	// Meanwhile the MTA that asks for itself is told the old place, then to wait, then the new one.
	var places []string
	asked, settled := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(asked)
		places = w.watchTransport(t, "dave", settled)
	}()
	moved, began := make(chan error, 1), time.Now()
	var done bool
	for id := 0; id < 400 || !done || id%100 != 0; id++ {
		if id == 100 {
			go func() {
				began := time.Now()
				c, err := w.be1.IMAP(w.rig.Admin())
				if err == nil {
					_, err = c.OK("XFER user.dave %s", w.be2.Server)
					c.Close()
				}
				t.Logf("moved in %s", time.Since(began).Round(time.Millisecond))
				moved <- err
			}()
		}
		ids <- id
		select {
		case err := <-moved:
			if done = true; err != nil {
				t.Fatal(err)
			}
		default:
		}
	}
	close(ids)
	work.Wait()
	close(settled)
	<-asked
	old, fresh := "OK lmtp:inet:["+w.be1.Host+"]:2003", "OK lmtp:inet:["+w.be2.Host+"]:2003"
	if len(places) != 3 || places[0] != old || !strings.HasPrefix(places[1], "TEMP ") || places[2] != fresh {
		t.Errorf("transport was %q, want %q, TEMP, %q", places, old, fresh)
	}
	t.Logf("all sent after %s", time.Since(began).Round(time.Millisecond))
	all := map[string]int{}
	for user, reader := range map[string]string{"dave": w.rig.Admin(), "carol": "carol"} {
		box := "INBOX"
		if user == "dave" {
			box = "user.dave"
		}
		for _, header := range fetch(t, w.be2, reader, box, "BODY.PEEK[HEADER.FIELDS (SUBJECT)]") {
			all[strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(header), "Subject:"))+" "+user]++
		}
	}
	q.check(t, all)
}

// watchTransport asks the second frontend where mail for a user goes, until over is closed, and returns the
// different answers in their order.
func (w *world) watchTransport(t *testing.T, user string, over <-chan struct{}) (answers []string) {
	nc, err := net.Dial("tcp", w.cluster.Addr("f2", "socketmap"))
	if err != nil {
		t.Error(err)
		return nil
	}
	defer nc.Close()
	request := "transport " + user
	r := bufio.NewReader(nc)
	for ended := false; !ended; time.Sleep(2 * time.Millisecond) {
		select {
		case <-over:
			ended = true // once more
		default:
		}
		fmt.Fprintf(nc, "%d:%s,", len(request), request)
		text, err := r.ReadString(',')
		if err != nil {
			t.Error(err)
			return answers
		}
		_, answer, _ := strings.Cut(strings.TrimSuffix(text, ","), ":")
		if len(answers) == 0 || answers[len(answers)-1] != answer {
			answers = append(answers, answer)
		}
	}
	return answers
}
