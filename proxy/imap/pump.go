package imap

import (
	"bytes"
	"errors"
	"fmt"
	"time"
)

// pump reads answers, as a goroutine, until none is outstanding.
func (c *conn) pump() {
	ended := false
	defer func() {
		if !ended { // somebody may be waiting for an answer
			c.lost(errors.New("panic"), false)
		}
	}()
	defer c.s.guard("pump")
	c.read(nil)
	ended = true
}

// read is the pump: it handles response lines until no answer is outstanding, or until last has been
// answered and a goroutine can take over what is left.
func (c *conn) read(last *exchange) {
	for c.pause(last == nil) {
		head, err := c.in.head()
		if err != nil {
			c.lost(err, true)
			return
		}
		c.mu.Lock()
		var x *exchange
		if len(c.queue) > 0 {
			x = c.queue[0]
			// A server that takes its leave has not answered.
			x.answered = x.answered || classify(head) != kindBye
		}
		selected := c.selected
		c.mu.Unlock()
		if more := c.one(head, x, selected); !more {
			return
		}
		c.extend()
		if last == nil {
			if x != nil && x.rests {
				c.calm()
			}
			continue
		}
		if last.ended() {
			c.mu.Lock()
			c.pumping = false
			c.listen()
			c.mu.Unlock()
			return
		}
	}
}

// one handles one response line, which starts with head. It returns false when the pump must end.
func (c *conn) one(head []byte, x *exchange, selected bool) bool {
	relay := selected || x != nil && x.all
	switch classify(head) {
	case kindTagged:
		return c.taggedLine(head, x)
	case kindContinue:
		return c.continuation(x)
	case kindBye:
		// What follows is the end of the connection; the client is told our own way.
		c.skip()
		c.lost(errors.New("backend said BYE"), true)
		return false
	case kindOwn:
		relay = false
	case kindMailbox:
		if x != nil && x.stream != nil {
			if done, err := x.stream(head); err != nil {
				c.lost(err, true)
				return false
			} else if done {
				return true
			}
		}
	case kindAlert:
		line, err := c.in.takeResponse(maxTagged)
		if err != nil {
			c.lost(err, true)
		} else if c.s.newAlert(line) {
			c.s.writeRaw(line)
		}
		return err == nil
	default:
		relay = x != nil && !x.quiet || selected
	}
	switch {
	case x != nil && x.take != nil:
		line, err := c.in.takeResponse(maxTaken)
		if err != nil {
			c.lost(err, true)
			return false
		}
		if !x.take(line) && relay && !x.quiet {
			c.s.writeRaw(line)
		}
		return true
	case relay:
		return c.relay()
	}
	return c.skip()
}

// waiting is called when the backend has sent nothing more for now.
func (c *conn) waiting() {
	if c.relaying { // and has the lock
		c.s.out.flush()
	} else {
		c.s.flush()
	}
	c.anew()
}

// anew allows the backend its time for the wait that begins, unless that is the rest of the one before: nothing has come.
func (c *conn) anew() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) > 0 && c.in.total != c.acked {
		quickAck(c.in, c.nc)
		c.acked = c.in.total
	}
	if c.seen != c.in.total && len(c.queue) > 0 && time.Since(c.armed) > time.Second {
		c.arm()
	}
	c.seen = c.in.total
}

// put takes a piece of a response for the client; relay has the lock.
func (c *conn) put(p []byte) error {
	c.begun = true
	err := c.s.out.put(p)
	c.extend() // a slow client may have taken longer than the backend may be silent
	return err
}

// relay passes one response line on to the client.
func (c *conn) relay() bool {
	err := c.pass()
	if err != nil {
		c.lost(err, !c.begun)
	}
	return err == nil
}

func (c *conn) pass() error {
	c.s.out.Lock()
	defer c.s.out.Unlock()
	c.relaying, c.begun = true, false
	err := c.in.copyResponse(c.put)
	c.relaying = false
	if err != nil {
		c.s.out.flush() // the client may have all that came
		if c.begun {
			c.s.out.err = errLost // and nothing more
		}
	}
	return err
}

// skip drops one response line.
func (c *conn) skip() bool {
	err := c.in.copyResponse(func([]byte) error { return nil })
	if err != nil {
		c.lost(err, true)
	}
	return err == nil
}

// extend moves the read deadline on while data flow.
func (c *conn) extend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.armed) > time.Second {
		c.arm()
	}
}

func (c *conn) continuation(x *exchange) bool {
	if x == nil {
		c.lost(errors.New("continuation request that nobody asked for"), true)
		return false
	}
	if !x.relayMore {
		if !c.skip() {
			return false
		}
	} else if !c.relay() {
		return false // the client has not been told
	} else {
		c.s.flush()
	}
	select {
	case x.more <- struct{}{}:
	default:
	}
	return true
}

func (c *conn) taggedLine(head []byte, x *exchange) bool {
	if x == nil || !bytes.HasPrefix(head, []byte(x.tag)) || len(head) <= len(x.tag) || head[len(x.tag)] != ' ' {
		c.lost(fmt.Errorf("unexpected line %.64q", head), true)
		return false
	}
	st, _, _ := condition(head)
	if x.hold {
		line, err := c.in.takeResponse(maxTagged)
		if err != nil {
			c.lost(err, true)
			return false
		}
		x.tagged = line
	} else if !c.relay() {
		return false
	} else if bytes.IndexByte(c.in.buffered(), '\n') < 0 {
		c.s.flush()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false // the driver gave the connection up meanwhile, and x with it
	}
	c.queue = c.queue[1:]
	if len(c.queue) == 0 {
		c.queue = nil
	}
	c.selected = c.selected || x.opens && st == statusOK
	c.arm()
	c.heard = c.armed
	if x.finish != nil {
		x.finish(st)
	}
	close(x.done)
	if len(c.queue) == 0 && !c.selected {
		c.pumping = false
		return false
	}
	return true
}
