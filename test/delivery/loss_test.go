//go:build cyrus

package delivery

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"murder/test/cyrus"
	"murder/test/seed"
)

// Backends, frontends and the leader are killed at random while mail comes in from Postfix and from a
// generator. Whatever they were told is delivered must be there, once; again only if they were not told
// what became of an attempt. The second backend does not suppress duplicates, so that none is hidden.
//
// What is there must be what was sent, to the last octet. MURDER_MESSAGES=N changes the number of messages (600),
// MURDER_SEED=N repeats their contents and the order of the faults.
func TestNothingIsLost(t *testing.T) {
	total := 600
	if s := os.Getenv("MURDER_MESSAGES"); s != "" {
		var err error
		if total, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t, options{conf: map[string][]string{"be2": {"duplicatesuppression: no"}}})
	const each = 20 // users on each backend
	boxes := map[*cyrus.Node][]string{}
	for i := range 2 * each {
		n, user := w.be1, fmt.Sprintf("n%d", i)
		if i%2 == 1 {
			n = w.be2
		}
		boxes[n] = append(boxes[n], user)
		w.admin(t, n, "CREATE user."+user, "SETACL user."+user+" "+w.rig.Admin()+" lrs")
	}
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
	rand := seed.Rand(t)
	mail := letters{rand.Uint64()}
	l := newLedger()
	var work sync.WaitGroup
	// A quarter goes through Postfix, which is the slower of the two.
	forPostfix, forGenerator := make(chan int), make(chan int)
	go func() {
		defer close(forPostfix)
		for id := 0; id < total/4; id++ {
			forPostfix <- id
		}
	}()
	go func() {
		defer close(forGenerator)
		for id := total / 4; id < total; id++ {
			forGenerator <- id
		}
	}()
	g := &generator{l, []string{w.cluster.Addr("f1", "lmtp"), w.cluster.Addr("f2", "lmtp")}, mail.text}
	for worker := range 6 {
		work.Go(func() { g.work(worker, forGenerator, rcptsOf) })
	}
	var p *postfix
	if len(cyrus.Missing("postfix", "postqueue")) == 0 {
		p = w.startPostfix(t, w.lossSettings(t)...)
		for range 3 {
			work.Go(func() { p.work(l, forPostfix, rcptsOf, mail.text) })
		}
	} else {
		t.Log("no Postfix: the generator sends all")
		work.Go(func() { g.work(6, forPostfix, rcptsOf) })
	}
	ctx, over := context.WithCancel(context.Background())
	go func() {
		work.Wait()
		if p != nil {
			p.drain(l)
		}
		over()
	}()
	began := time.Now()
	var telling sync.WaitGroup
	telling.Go(func() { l.tell(ctx, t, max(total/10, 1)) })
	faults := w.torment(ctx, t, rand, l, max(total/250, 100))
	<-ctx.Done()
	telling.Wait()
	if p != nil {
		p.empty(30 * time.Minute)
		p.audit(l)
	}
	t.Logf("sent:         %d messages in %s, %.0f a second", total, time.Since(began).Round(time.Second), float64(total)/time.Since(began).Seconds())
	t.Logf("killed:       %s", counts(faults))
	found, changed, large := map[string]int{}, 0, 0
	for n, users := range boxes {
		for _, user := range users {
			stored(t, n, w.rig.Admin(), "user."+user, func(subject, body string) {
				found[subject+" "+user]++
				id, ok := number(subject)
				if !ok || sha256.Sum256([]byte(body)) != sha256.Sum256([]byte(mail.body(id))) {
					changed++
					t.Errorf("CHANGED: %q of %s has %d octets that are not what was sent", subject, user, len(body))
				}
				if len(body) > spoolMemory {
					large++
				}
			})
		}
	}
	t.Logf("contents:     %d changed; %d were larger than a frontend's memory for one", changed, large)
	l.check(t, found)
}

func subjectOf(header string) string {
	return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(header), "Subject:"))
}

// lossSettings point the example configuration at both frontends.
func (w *world) lossSettings(t *testing.T) []string {
	var hops []string
	for _, id := range []string{"f1", "f2"} {
		host, port := hostPort(t, w.cluster.Addr(id, "lmtp"))
		hops = append(hops, "["+host+"]:"+port)
	}
	return []string{"murder:inet:[127.0.0.1]:24", "murder:inet:" + strings.Join(hops, ", "), "inet:127.0.0.1:7404", "inet:" + w.cluster.Addr("f1", "socketmap")}
}

// torment kills something and starts it again after every step acknowledgements, until ctx ends.
func (w *world) torment(ctx context.Context, t *testing.T, rand *rand.Rand, l *ledger, step int) map[string]int {
	faults := map[string]int{}
	for at := step; l.await(ctx, at); at = max(at, l.count()) + step { // what came in meanwhile does not count
		kind := [...]string{"backend", "backend", "frontend", "frontend", "leader", "backend and frontend", "frontend, in order"}[rand.IntN(7)]
		backend, frontend := w.rig.Backends()[rand.IntN(2)], fmt.Sprintf("f%d", 1+rand.IntN(2))
		var err error
		switch kind {
		case "backend":
			backend.Kill()
			err = backend.Start()
		case "frontend":
			err = w.revive(frontend, w.cluster.Kill)
		case "frontend, in order":
			err = w.revive(frontend, w.cluster.Stop)
		case "backend and frontend":
			backend.Kill()
			err = errors.Join(w.revive(frontend, w.cluster.Kill), backend.Start())
		case "leader":
			id := ""
			if id, err = w.cluster.Leader(context.Background()); err == nil {
				err = w.revive(id, w.cluster.Kill)
			}
		}
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		faults[kind]++
	}
	return faults
}

// revive ends a node and starts it again. On a busy machine its sockets may outlive it for a moment: a
// service manager would try again, too.
func (w *world) revive(id string, end func(string) error) error {
	if err := end(id); err != nil {
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
