package imap

import (
	"errors"
	"fmt"
	"slices"

	"murder/internal/mbox"
)

// A connection may be used before the backend has said that it lets us in, if all that there is to know
// about the backend has been heard not long ago: our sign-on, the introduction and the first command go
// in one packet, and so cost one round trip. It is done with commands that are sent whole and whose answer
// is kept; one that a backend has refused because it did not let us in has done nothing there. When the
// sign-on fails, a connection is made once more in good order, which finds out why.
//
// Cyrus reads on where a sign-on without security layer has ended, and answers in one or two packets; the
// second must not wait for our delayed acknowledgement (see quickAck).

// errEarly means that a backend has not let us in as expected: the command has not been executed.
var errEarly = errors.New("early sign-on failed")

// early is a sign-on that has been sent, or is to be, and has not been looked at.
type early struct {
	cmd string
	x   *exchange
}

func (e *early) pending() bool { return e != nil }

// toEarly is to for a command that is sent whole by do.
func (s *session) toEarly(server mbox.Server) (*conn, error) {
	if c := s.have(server); c != nil {
		return c, nil
	}
	caps := s.srv.caps.recent(server)
	if caps == nil || len(s.enabled) > 0 || !s.srv.spaces.known(spaceKey{server, s.admin}) {
		return s.open(server)
	}
	hello, err := s.introduction(caps)
	if err != nil {
		return nil, err
	}
	cmd := ""
	so, err := s.srv.reach(s.ctx, server, func(so *signOn) (err error) {
		if cmd, err = so.oneStep(s.srv.cfg.Backends, string(s.user)); err != nil || cmd != "" {
			return err
		}
		return so.proxy(s.srv.cfg.Backends, string(s.user))
	})
	if err != nil {
		return nil, err
	}
	if cmd == "" {
		s.srv.signedOn(server, nil)
		s.srv.caps.learn(server, so.caps)
	} else {
		so.caps = caps
	}
	c := s.newConn(so)
	c.hello = hello
	if cmd != "" {
		c.early = &early{cmd: cmd}
	}
	return c, nil
}

// oneStep is the command that signs on as authz, if one is enough.
func (so *signOn) oneStep(backends Backends, authz string) (string, error) {
	mech, client, err := so.mechanism(backends, authz)
	if err != nil {
		return "", err
	}
	_, ir, err := client.Start()
	if err != nil || ir == nil || !so.caps.has("SASL-IR") || !slices.Contains([]string{"PLAIN", "EXTERNAL"}, mech) {
		return "", nil
	}
	return "AUTHENTICATE " + mech + " " + encodeIR(ir), nil
}

// greet queues what goes ahead of the first command.
func (c *conn) greet() error {
	cmd, hello := "", c.hello
	if c.early.pending() {
		cmd, c.early.cmd = c.early.cmd, "" // it holds a password
	}
	c.hello = ""
	if cmd != "" {
		c.early.x = &exchange{hold: true, quiet: true, stall: c.s.cfg.Limits.BackendLogin}
		if err := c.ahead(c.early.x, cmd); err != nil {
			return err
		}
	}
	if hello == "" {
		return nil
	}
	return c.ahead(&exchange{hold: true, quiet: true}, hello)
}

func (c *conn) ahead(x *exchange, cmd string) error {
	if err := c.enqueue(x); err != nil {
		return err
	}
	c.out.Lock()
	defer c.out.Unlock()
	return c.out.puts(x.tag + " " + cmd + "\r\n")
}

// settle waits for the answer to an early sign-on and says what it means.
func (c *conn) settle() error {
	e := c.early
	if e.x == nil {
		if err := c.greet(); err != nil {
			return err
		}
		c.flush()
		c.await(e.x)
	}
	<-e.x.done
	c.early = nil
	srv := c.s.srv
	st, code, text := condition(e.x.tagged)
	err := e.x.err // nobody knows what the server has done then
	if err == nil {
		if err = admitted(st, code, text); err != nil {
			err = fmt.Errorf("%w: %w", errEarly, err)
		}
	}
	if err != nil {
		srv.caps.doubt(c.server)
		return err
	}
	srv.signedOn(c.server, nil)
	if codeName(code) == "CAPABILITY" {
		c.caps = srv.caps.texts.parse(code[len("CAPABILITY"):])
		srv.caps.learn(c.server, c.caps)
	}
	return nil
}
