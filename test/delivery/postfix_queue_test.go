//go:build cyrus

package delivery

import (
	"bufio"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"regexp"
	"strings"
	"time"
)

// work hands messages in by SMTP until their recipients have all been taken.
func (p *postfix) work(l *ledger, ids <-chan int, rcptsOf func(id int) []string, text func(id int) string) {
	var c *textproto.Conn
	for id := range ids {
		for left := rcptsOf(id); len(left) > 0; {
			if c == nil {
				nc, err := net.Dial("tcp", p.smtp)
				if err != nil {
					time.Sleep(50 * time.Millisecond) // a queue's pause
					continue
				}
				c = textproto.NewConn(nc)
				c.ReadResponse(220)
				ask(c, 250, "EHLO client.example.net")
			}
			taken, err := submit(c, text(id), left)
			if err != nil { // nobody kills Postfix: it had enough of us
				c.Close()
				c = nil
				l.note("smtp: " + firstWords(err.Error()))
			}
			for _, rcpt := range taken {
				l.acknowledge("Postfix", subject(id)+" "+rcpt)
			}
			if left = without(left, taken); len(left) > 0 {
				time.Sleep(50 * time.Millisecond) // a queue's pause
			}
		}
	}
	if c != nil {
		c.Close()
	}
}

func ask(c *textproto.Conn, code int, format string, args ...any) error {
	if err := c.PrintfLine(format, args...); err != nil {
		return err
	}
	_, _, err := c.ReadResponse(code)
	return err
}

// submit sends one message and returns the recipients that Postfix has taken on itself.
func submit(c *textproto.Conn, message string, rcpts []string) (taken []string, err error) {
	if err := ask(c, 250, "MAIL FROM:<sender@example.net>"); err != nil {
		return nil, err
	}
	for _, rcpt := range rcpts {
		if ask(c, 250, "RCPT TO:<%s@example.org>", rcpt) == nil {
			taken = append(taken, rcpt)
		}
	}
	if len(taken) == 0 {
		return nil, ask(c, 250, "RSET")
	}
	if err := ask(c, 354, "DATA"); err != nil {
		return nil, err
	}
	if err := ask(c, 250, "%s.", strings.ReplaceAll(message, "\r\n.", "\r\n..")); err != nil {
		return nil, err
	}
	return taken, nil
}

func without(all, gone []string) (left []string) {
	for _, s := range all {
		found := false
		for _, g := range gone {
			found = found || s == g
		}
		if !found {
			left = append(left, s)
		}
	}
	return left
}

// drain waits until the queue is nearly empty, so that the faults go on while there is something to do.
func (p *postfix) drain(l *ledger) {
	for range 60 * 60 {
		if n := strings.Count(p.queue(), "sender@example.net"); n < 50 {
			return
		}
		time.Sleep(time.Second) // asking costs Postfix something
	}
}

// empty waits until everything has been delivered.
func (p *postfix) empty(limit time.Duration) {
	p.t.Helper()
	var q string
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if q = p.queue(); strings.Contains(q, "queue is empty") {
			return
		}
		must(p.t, "postqueue", "-c", p.dir, "-f")
	}
	p.t.Fatalf("still in the queue after %s:\n%.2000s", limit, q)
}

var (
	messageIDLine = regexp.MustCompile(`: ([0-9A-Za-z]+): message-id=<(loss-\d+)@`)
	statusLine    = regexp.MustCompile(`/lmtp\[\d+\]: ([0-9A-Za-z]+): to=<([^@]+)@[^>]*>,.* status=(\w+) \((.*)\)$`)
	// Before it goes on to the other frontend Postfix does not say which recipient it is about.
	attemptLine = regexp.MustCompile(`/lmtp\[\d+\]: ([0-9A-Za-z]+): ((?:host|lost connection|conversation) .*)$`)
)

// audit reads from Postfix's log which attempts it was left in the dark about.
func (p *postfix) audit(l *ledger) {
	p.t.Helper()
	f, err := os.Open(p.dir + "/log")
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	names := map[string]string{}            // of messages, by queue id
	waiting := map[string]map[string]bool{} // recipients who have not been confirmed, by message
	for key, by := range l.acknowledged {
		if name, rcpt, _ := strings.Cut(key, " "); by == "Postfix" {
			if waiting[name] == nil {
				waiting[name] = map[string]bool{}
			}
			waiting[name][rcpt] = true
		}
	}
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		if m := messageIDLine.FindStringSubmatch(line); m != nil {
			names[m[1]] = m[2]
			continue
		}
		if m := attemptLine.FindStringSubmatch(line); m != nil {
			cause := l.unfinished(m[2])
			for rcpt := range waiting[names[m[1]]] {
				if cause != "" {
					l.doubt(names[m[1]]+" "+rcpt, cause)
				}
			}
			continue
		}
		m := statusLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		name, rcpt, status, text := names[m[1]], m[2], m[3], m[4]
		switch status {
		case "sent":
			delete(waiting[name], rcpt)
		case "deferred":
			if cause := l.unfinished(text); cause != "" {
				l.doubt(name+" "+rcpt, cause)
			}
		default:
			l.refuse("Postfix: " + name + " " + rcpt + ": " + text)
		}
	}
	if len(names) == 0 {
		p.t.Error(fmt.Sprint("no message in ", p.dir, "/log"))
	}
}

// unfinished counts an attempt that did not succeed by what Postfix says of it, and returns the cause if
// the outcome is open.
func (l *ledger) unfinished(text string) (cause string) {
	_, said, replied := strings.Cut(text, " said: ")
	switch {
	case strings.Contains(text, "while sending end of data"):
		l.note("Postfix: connection lost")
		return "Postfix: frontend lost after the dot"
	case !replied:
		l.note("Postfix: not connected")
		return ""
	}
	l.note("Postfix: " + firstWords(said))
	if cause = openOutcome(said); cause != "" && strings.Contains(text, "end of DATA") {
		return "Postfix: " + cause
	}
	return ""
}
