package imap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"murder/internal/backend"
	"murder/internal/imapwire"
	"murder/internal/mbox"
)

// errLost means that a backend connection ended before the answer was complete.
var errLost = errors.New("connection to the backend lost")

// maxTaken bounds one response line that is read into memory, and maxTagged a tagged one.
const (
	maxTaken  = 4 << 20
	maxTagged = 64 << 10
)

// conn is a session's connection to one backend. The driver sends commands, one exchange each; the pump
// reads the answers. The pump is the driver itself while it has nothing else to do than to wait for one
// answer; it is a goroutine while answers come beside what the driver does, or the connection has the
// session's mailbox selected. An unused connection costs no goroutine, and one on which nothing has come for a
// moment none either (see quiet).
type conn struct {
	s      *session
	server mbox.Server
	nc     *backend.Conn
	in     *reader
	out    writer // the driver's; or, while he waits for it, that of another pump which feeds it (see transfer)
	caps   capSet
	// enabled is what the session has enabled here, by the driver.
	enabled int
	prefix  string // of our own tags
	seq     int
	used    time.Time // last command, by the driver
	asked   bool      // there has been a command
	// hello is a command that goes ahead of the next one: what the client has said of itself since the login.
	hello string

	// Of the pump.
	relaying bool // within pass, with the lock on the client's writer
	begun    bool // pass has passed something on

	mu       sync.Mutex
	queue    []*exchange
	pumping  bool
	selected bool
	err      error     // why the connection is of no use any more
	fault    error     // why the driver has hung up, which the pump is to find out
	armed    time.Time // when the backend was last allowed time
	due      time.Time // when it will have been silent for too long; zero: it may be
	deadline time.Time // of reading, which may be earlier (see quiet)
	seen     int64     // octets that had come when the pump last waited
	acked    int64     // octets that need no acknowledgement of their own (see quickAck)
	parked   ticket    // of the pump, which is no goroutine meanwhile; 0 if it is not
	heard    time.Time // when the last answer came
}

// exchange is one command sent to a backend and its answer.
type exchange struct {
	tag string
	// hold keeps the tagged line for the driver instead of relaying it.
	hold bool
	// all relays data about the selected mailbox: the command runs where the client's mailbox is,
	// or opens it.
	all bool
	// quiet drops every untagged line that take does not want.
	quiet bool
	// take is offered each untagged line whole, and returns true to keep it from the client. It
	// runs on the pump.
	take func(line []byte) bool
	// stream is offered each untagged line about a message before take, by its head. It returns
	// true when it has read the line, literals and all, from the connection by itself.
	stream func(head []byte) (bool, error)
	// stall is how long the backend may be silent.
	stall time.Duration
	// rests is set for IDLE, during which the pump may be parked: its end is the driver's to watch.
	rests bool
	// opens is set for a command whose OK selects a mailbox.
	opens bool

	// more takes one "+"; nil if nobody waits for that. It is relayed to the client if relayMore is set.
	more      chan struct{}
	relayMore bool

	done     chan struct{} // closed when the fields below are final
	tagged   []byte
	err      error
	answered bool // some octet of an answer was seen
	finish   func(status)
}

// ended reports whether the fields of the answer are final.
func (x *exchange) ended() bool {
	select {
	case <-x.done:
		return true
	default:
		return false
	}
}

// granted waits for the consent to a literal, and reports whether it has come, whatever has happened since: a client that
// has been told sends the literal, which must not be taken for commands.
func (x *exchange) granted() bool {
	select {
	case <-x.more:
		return true
	case <-x.done:
	}
	select {
	case <-x.more:
		return true
	default:
		return false
	}
}

// renew makes x ready to be sent again.
func (x *exchange) renew() {
	*x = exchange{take: x.take, quiet: x.quiet, stall: x.stall, opens: x.opens}
}

// newConn makes a connection of the session's out of one that is signed on.
func (s *session) newConn(so *signOn) *conn {
	c := &conn{s: s, server: so.server, nc: so.nc, in: so.in, caps: so.caps, prefix: so.prefix, seq: so.seq,
		enabled: len(s.enabled), used: time.Now()}
	c.out = writer{dst: so.nc, conn: so.nc, stall: s.cfg.Limits.BackendStall}
	c.in.wait, c.in.owner = c.waiting, c
	s.noteConns(append(slices.Clone(s.conns), c))
	s.srv.metrics.conns.WithLabelValues(string(so.server)).Inc()
	return c
}

// begin queues x for the answer to the command that is sent next, and sees to it that answers are read.
// Without a tag it gets one of ours.
func (c *conn) begin(x *exchange) error {
	if err := c.enqueue(x); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start()
	return nil
}

// enqueue is begin for a caller that reads the answer himself (see await).
func (c *conn) enqueue(x *exchange) error {
	if hello := c.hello; hello != "" {
		c.hello = ""
		first := &exchange{hold: true, quiet: true}
		if err := c.enqueue(first); err != nil {
			return err
		}
		c.out.puts(first.tag + " " + hello + "\r\n")
	}
	c.used, c.asked = time.Now(), true
	x.done = make(chan struct{})
	if x.stall == 0 {
		x.stall = c.s.cfg.Limits.BackendStall
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return fmt.Errorf("%w: %w", errLost, c.err)
	}
	for x.tag == "" || c.outstanding(x.tag) && x.hold && strings.HasPrefix(x.tag, c.prefix) {
		c.seq++
		x.tag = c.prefix + strconv.Itoa(c.seq)
	}
	c.acked = c.seen // by the command itself
	c.queue = append(c.queue, x)
	if len(c.queue) == 1 {
		c.arm()
	}
	return nil
}

// await waits until x, which has been enqueued, is answered.
func (c *conn) await(x *exchange) {
	c.mu.Lock()
	alone := !c.pumping && c.outstanding(x.tag)
	if alone {
		c.take()
	}
	c.mu.Unlock()
	if alone {
		c.read(x)
	}
	<-x.done
}

func (c *conn) outstanding(tag string) bool {
	for _, x := range c.queue {
		if x.tag == tag {
			return true
		}
	}
	return false
}

// start makes sure that the pump runs; c.mu is held.
func (c *conn) start() {
	if !c.pumping && c.err == nil {
		c.take()
		c.s.pumps.Go(c.pump)
	}
}

// take makes the caller, or whom he starts, the pump; c.mu is held.
func (c *conn) take() {
	c.unpark()
	c.pumping = true
	c.arm()
}

// arm allows the backend the time of the exchange at the head of the queue, from now on; c.mu is held. The read
// deadline, however, ends no later than the pump is to be parked, and is set about once a second.
func (c *conn) arm() {
	c.armed, c.due = time.Now(), time.Time{}
	if len(c.queue) > 0 {
		c.due = c.armed.Add(c.queue[0].stall)
	}
	at := c.due
	if hot := c.s.srv.hot; hot > 0 {
		if quiet := c.armed.Add(hot); at.IsZero() || quiet.Before(at) {
			at = quiet
		}
	}
	if at.IsZero() && c.deadline.IsZero() || c.deadline.After(c.armed) && !c.deadline.After(at) && at.Sub(c.deadline) < c.s.srv.slack() {
		return
	}
	c.deadline = at
	c.nc.SetReadDeadline(at)
}

// setSelected tells whether the connection holds the session's selected mailbox.
func (c *conn) setSelected(selected bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.selected = selected; selected {
		c.listen()
	} else if len(c.queue) == 0 {
		c.unpark() // an unused connection is looked at when it is used again
	}
}

// drain waits until every command sent has been answered.
func (c *conn) drain() { c.drainUntil(context.Background()) }

// drainUntil is drain that fails when ctx ends.
func (c *conn) drainUntil(ctx context.Context) error {
	c.push()
	c.mu.Lock()
	var last *exchange
	if n := len(c.queue); n > 0 {
		last = c.queue[n-1]
	}
	c.mu.Unlock()
	if last == nil {
		return nil
	}
	select {
	case <-last.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lastBusy returns when the backend last answered, which is now if it still owes an answer.
func (c *conn) lastBusy() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) > 0 {
		return time.Now()
	}
	return c.heard
}

// maxPipelined bounds the commands that a backend has not answered yet.
const maxPipelined = 100

// room waits until one more command may be sent.
func (c *conn) room() {
	c.mu.Lock()
	var first *exchange
	if n := len(c.queue); n >= maxPipelined {
		first = c.queue[n-maxPipelined]
	}
	c.mu.Unlock()
	if first != nil {
		c.push()
		<-first.done
	}
}

// push sends what has been gathered: whoever waits, for the backend or for the client, does that first.
func (c *conn) push() {
	if err := c.out.flush(); err != nil {
		c.hangUp(err)
	}
}

func (c *conn) broken() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over()
}

// over is broken with c.mu held.
func (c *conn) over() error {
	if c.err != nil {
		return c.err
	}
	return c.fault
}

// write sends p to the backend at once. Where that fails, no answer comes any more.
func (c *conn) write(p []byte) {
	c.out.put(p)
	c.push()
}

// send sends a whole command whose literals are all announced as {n+}.
func (c *conn) send(x *exchange, raw []byte) {
	if c.caps.has("LITERAL+") || !bytes.Contains(raw, []byte("+}\r\n")) {
		c.write(raw)
		return
	}
	c.mu.Lock()
	c.start() // somebody must hear the consent
	c.mu.Unlock()
	for len(raw) > 0 {
		i := bytes.IndexByte(raw, '\n') + 1
		lit, ok, _ := imapwire.TrailingLiteral(bytes.TrimRight(raw[:i], "\r\n"))
		if !ok {
			c.write(raw)
			return
		}
		text := bytes.TrimSuffix(raw[:i], []byte("+}\r\n"))
		c.write(append(bytes.Clone(text), "}\r\n"...))
		if !x.granted() {
			return
		}
		// The rest up to the next announcement goes with the literal.
		end := i + int(lit.Size)
		c.write(raw[i:end])
		raw = raw[end:]
	}
}

// do sends a whole command and waits for its answer, which is in x. The error is errLost.
func (c *conn) do(x *exchange, format func(tag string) []byte) error {
	x.hold = true
	if !c.caps.has("LITERAL+") {
		x.more = make(chan struct{}, 1)
	}
	if err := c.enqueue(x); err != nil {
		return err
	}
	c.send(x, format(x.tag))
	c.await(x)
	return x.err
}

// hangUp ends the connection for the driver, who cannot know whether the client's stream stands within a response of this
// very backend. The pump does, and so it is the pump that finds the connection lost.
func (c *conn) hangUp(cause error) {
	c.mu.Lock()
	if c.fault == nil {
		c.fault = cause
	}
	c.start()
	c.mu.Unlock()
	c.nc.Close()
}

// lost ends the connection. It is the pump's. clean means that the client's stream stands at the start of a line. If
// the session's mailbox was selected here, the session ends too (the client must not go on with
// sequence numbers that nobody keeps).
func (c *conn) lost(cause error, clean bool) {
	c.nc.Close()
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	if c.fault != nil {
		cause = c.fault
	}
	c.err = cause
	queue, selected := c.queue, c.selected
	c.queue, c.selected, c.pumping = nil, false, false
	c.unpark()
	c.mu.Unlock()
	if !clean {
		// Nothing may be written inside a literal.
		c.s.abort("backend lost within a response: " + cause.Error())
	}
	for _, x := range queue {
		x.err = fmt.Errorf("%w: %w", errLost, cause)
		if !x.hold && clean {
			c.s.writeRaw([]byte(x.tag + " NO [UNAVAILABLE] The server of this mailbox was lost; the outcome is unknown\r\n"))
		}
		if x.finish != nil {
			x.finish(statusNo)
		}
		close(x.done)
	}
	if selected {
		c.s.lostSelected(c, cause)
	}
}

// close ends an unused connection in good order: LOGOUT, and the answer is not waited for beyond the
// deadline that the caller has set. CLOSE is never sent, because it would expunge. While a command is
// outstanding nothing is sent: it would be taken for the rest of a literal.
func (c *conn) close() {
	c.mu.Lock()
	unused := c.err == nil && len(c.queue) == 0
	c.mu.Unlock()
	if unused {
		c.seq++
		c.nc.SetWriteDeadline(time.Now().Add(time.Second))
		fmt.Fprintf(c.nc, "%s%d LOGOUT\r\n", c.prefix, c.seq)
	}
	c.mu.Lock()
	c.selected = false
	if c.err == nil {
		c.err = errors.New("closed")
	}
	c.unpark()
	c.mu.Unlock()
	c.nc.Close()
}
