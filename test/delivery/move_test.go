//go:build cyrus

package delivery

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A user moves to the other backend while mail for him comes in. None of it bounces, and all that was
// confirmed is at the new place.
func TestMailDuringAMove(t *testing.T) {
	w := newWorld(t, options{})
	w.admin(t, w.be1, "SETACL user.dave "+w.rig.Admin()+" lrswipkxtecda")
	for i := range 30 {
		w.admin(t, w.be1, fmt.Sprintf("CREATE user.dave.f%d", i))
	}
	l := newLedger()
	g := &generator{l, []string{w.cluster.Addr("f1", "lmtp"), w.cluster.Addr("f2", "lmtp")}, letters{}.text}
	ids := make(chan int)
	var work sync.WaitGroup
	for worker := range 4 {
		work.Go(func() { g.work(worker, ids, func(int) []string { return []string{"dave", "carol"} }) })
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
			all[subjectOf(header)+" "+user]++
		}
	}
	l.check(t, all)
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
