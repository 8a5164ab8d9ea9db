//go:build linux

package imap

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Everything at once happens to sessions that park all the time: news, kicks, backends that hang up, mailboxes that
// move, clients that vanish, and at the end a shutdown. What is left of it is nothing.
func TestEndsWhileParking(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			metrics := prometheus.NewRegistry()
			r := parkRig(t, secure, secure, 200*time.Microsecond, func(c *Config) { c.Metrics = metrics })
			stop, last := make(chan struct{}), make(chan struct{})
			var world, clients sync.WaitGroup
			every := func(pause time.Duration, do func()) {
				world.Go(func() {
					for {
						select {
						case <-time.After(rand.N(2 * pause)):
							do()
						case <-stop:
							return
						}
					}
				})
			}
			one := func() *session {
				r.srv.mu.Lock()
				defer r.srv.mu.Unlock()
				for _, s := range r.srv.sessions {
					return s
				}
				return nil
			}
			every(500*time.Microsecond, func() { r.stubs["b1"].tell(fmt.Sprintf("* %d EXISTS", rand.N(1000))) })
			every(7*time.Millisecond, func() {
				if s := one(); s != nil {
					r.srv.Kick(s.id, "")
				}
			})
			every(9*time.Millisecond, func() {
				if s := one(); s != nil {
					[]func(){s.sever, s.kill, func() { s.breakOff("test") }}[rand.N(3)]()
				}
			})
			every(40*time.Millisecond, r.stubs["b1"].hangUp)
			every(30*time.Millisecond, func() {
				r.dir.set("user.alice", "b2!default", "alice\tlrswip\t")
				r.dir.set("user.alice", "b1!default", "alice\tlrswip\t")
			})
			every(time.Millisecond, func() {
				r.srv.Sessions()
				if s := one(); s != nil {
					s.log() // as a pump does
				}
			})
			for range 16 {
				clients.Go(func() {
					for {
						select {
						case <-last:
							return
						default:
							r.visit(secure)
						}
					}
				})
			}
			<-time.After(time.Second)
			close(last)
			clients.Wait()
			close(stop)
			world.Wait()
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if err := r.srv.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			if log := r.log.String(); strings.Contains(log, "panic") {
				t.Error(log)
			}
			if n := len(r.srv.lot.(*epollLot).sleepers); n != 0 {
				t.Errorf("%d sleepers are left", n)
			}
			families, _ := metrics.Gather()
			for _, f := range families {
				for _, m := range f.GetMetric() {
					if n := m.GetGauge().GetValue(); n != 0 {
						t.Errorf("%s is %v", f.GetName(), n)
					}
				}
			}
		})
	}
}

// visit is a client that comes, does this and that with pauses, and goes, or is sent away. It is never left waiting.
func (r *rig) visit(secure bool) {
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		return
	}
	defer func() { conn.Close() }()
	in := bufio.NewReader(conn)
	say := func(text string) bool { _, err := conn.Write([]byte(text)); return err == nil }
	until := func(what string) bool {
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		for {
			line, err := in.ReadString('\n')
			if errors.Is(err, os.ErrDeadlineExceeded) {
				r.t.Errorf("left waiting for %q", what)
			}
			if err != nil || strings.HasPrefix(line, what) {
				return err == nil
			}
		}
	}
	if secure {
		if !until("* OK") || !say("t STARTTLS\r\n") || !until("t OK") {
			return
		}
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		in = bufio.NewReader(conn)
	}
	if !say("l LOGIN alice pw\r\n") || !until("l OK") {
		return
	}
	if !say("s SELECT INBOX\r\n") || !until("s ") {
		return
	}
	for n := range 1 + rand.N(40) {
		<-time.After(rand.N(600 * time.Microsecond))
		switch rand.N(5) {
		case 0:
			if !say(fmt.Sprintf("i%d IDLE\r\n", n)) || !until("+") {
				return
			}
			<-time.After(rand.N(2 * time.Millisecond))
			if rand.N(20) == 0 { // waits until it is sent away, or there is news
				until("*")
				return
			}
			if !say("DONE\r\n") || !until(fmt.Sprintf("i%d ", n)) {
				return
			}
		case 1:
			if !say(fmt.Sprintf("x%d STATUS Work (MESSAGES)\r\n", n)) || !until(fmt.Sprintf("x%d ", n)) {
				return
			}
		case 2:
			if !say(fmt.Sprintf("u%d UNSELECT\r\n", n)) || !until(fmt.Sprintf("u%d ", n)) {
				return
			}
			if !say(fmt.Sprintf("s%d SELECT INBOX\r\n", n)) || !until(fmt.Sprintf("s%d ", n)) {
				return
			}
		case 3:
			if !say("v UNAUTHENTICATE\r\n") || !until("v ") || !say("l LOGIN alice pw\r\n") || !until("l OK") {
				return
			}
			if !say(fmt.Sprintf("s%d SELECT INBOX\r\n", n)) || !until(fmt.Sprintf("s%d ", n)) {
				return
			}
		default:
			if !say(fmt.Sprintf("n%d NOOP\r\n", n)) || !until(fmt.Sprintf("n%d ", n)) {
				return
			}
		}
		if rand.N(60) == 0 {
			return // without a word
		}
	}
	if say("z LOGOUT\r\n") {
		until("z OK")
	}
}
