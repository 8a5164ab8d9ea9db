package mupdate

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"murder/internal/imapwire"
	"murder/internal/mbox"
)

// command writes a command. Every argument is a non-synchronising literal, as from Cyrus's own
// client, unless it is short and plain: every server reads quoted strings.
func (c *Client) command(verb string, args ...string) (tag string) {
	c.counter++
	tag = "X" + strconv.Itoa(c.counter)
	c.out.buf = append(c.out.buf, tag...)
	c.out.buf = append(c.out.buf, ' ')
	c.out.buf = append(c.out.buf, verb...)
	for _, a := range args {
		c.out.buf = append(c.out.buf, ' ')
		c.out.buf = imapwire.AppendString(c.out.buf, a)
	}
	c.out.buf = append(c.out.buf, '\r', '\n')
	return tag
}

func (c *Client) do(ctx context.Context, verb string, args ...string) error {
	defer c.bounded(ctx)()
	c.command(verb, args...)
	return describe(c.complete(ctx), verb, args)
}

func describe(err error, verb string, args []string) error {
	if err == nil {
		return nil
	}
	if len(args) > 0 {
		return fmt.Errorf("mupdate %s: %s: %w", verb, args[0], err)
	}
	return fmt.Errorf("mupdate %s: %w", verb, err)
}

// Reserve holds a name for a mailbox that is about to be made.
func (c *Client) Reserve(ctx context.Context, name mbox.Name, at mbox.Location) error {
	return c.do(ctx, "RESERVE", string(name), string(at))
}

// Activate makes a name known with its place and ACL.
func (c *Client) Activate(ctx context.Context, name mbox.Name, at mbox.Location, acl mbox.ACL) error {
	return c.do(ctx, "ACTIVATE", string(name), string(at), string(acl))
}

// Deactivate begins the transfer of a mailbox.
func (c *Client) Deactivate(ctx context.Context, name mbox.Name, at mbox.Location) error {
	return c.do(ctx, "DEACTIVATE", string(name), string(at))
}

// Delete removes a name.
func (c *Client) Delete(ctx context.Context, name mbox.Name) error {
	return c.do(ctx, "DELETE", string(name))
}

// Noop does nothing but wait for the answer.
func (c *Client) Noop(ctx context.Context) error { return c.do(ctx, "NOOP") }

// Logout ends the session in order and closes the connection.
func (c *Client) Logout(ctx context.Context) error {
	defer c.Close()
	defer c.bounded(ctx)()
	c.out.line("Q01 LOGOUT")
	_, err := c.read(ctx) // OK from Cyrus, BYE by the RFC
	return describe(err, "LOGOUT", nil)
}

// Find returns the record of a name; ok is false when there is none.
func (c *Client) Find(ctx context.Context, name mbox.Name) (e mbox.Entry, ok bool, err error) {
	err = c.rows(ctx, func(row mbox.Entry) error { e, ok = row, true; return nil }, "FIND", string(name))
	return e, ok, err
}

// List calls yield with every record whose location begins with prefix, in the server's order. An
// error of yield ends the call and leaves the connection unusable.
func (c *Client) List(ctx context.Context, prefix string, yield func(mbox.Entry) error) error {
	if prefix == "" {
		return c.rows(ctx, yield, "LIST")
	}
	return c.rows(ctx, yield, "LIST", prefix)
}

func (c *Client) rows(ctx context.Context, yield func(mbox.Entry) error, verb string, args ...string) error {
	defer c.bounded(ctx)()
	c.command(verb, args...)
	for {
		f, err := c.read(ctx)
		if err != nil {
			return describe(err, verb, args)
		}
		e, ok, err := rowOf(&f)
		if err == nil && !ok {
			return describe(completion(&f), verb, args)
		}
		if err == nil {
			err = yield(e)
		}
		if err != nil {
			return describe(err, verb, args)
		}
	}
}

// rowOf reads a record; ok is false if f is no record.
func rowOf(f *frame) (e mbox.Entry, ok bool, err error) {
	want := 0
	switch {
	case f.is("MAILBOX"):
		want, e.State = 3, mbox.Active
	case f.is("RESERVE"):
		want, e.State = 2, mbox.Reserved
	case f.is("DELETE"):
		want = 1
	default:
		return e, false, nil
	}
	args, good := f.strings()
	if !good || len(args) != want {
		return e, false, fmt.Errorf("malformed %s row", f.word)
	}
	e.Name = mbox.Name(args[0])
	if want > 1 {
		e.Location = mbox.Location(args[1])
	}
	if want > 2 {
		e.ACL = mbox.ACL(args[2])
	}
	return e, true, nil
}

// window is how many commands of a batch are on their way at a time.
const window = 256

// Batch sends many writes without waiting for each answer. The errors returned correspond to the
// writes: nil, or a *ResponseError. err tells that the connection failed; the fate of the writes
// beyond the errors returned is then unknown. Only Kind, Name, Location and ACL are looked at.
func (c *Client) Batch(ctx context.Context, writes []mbox.Write) (errs []error, err error) {
	defer c.bounded(ctx)()
	sent := 0
	for len(errs) < len(writes) {
		if sent-len(errs) <= window/2 { // not one command for each answer
			for ; sent < len(writes) && sent-len(errs) < window; sent++ {
				if err := c.send(&writes[sent]); err != nil {
					return errs, err
				}
			}
		}
		f, err := c.read(ctx)
		if err != nil {
			return errs, fmt.Errorf("batch of %d writes, %d answered: %w", len(writes), len(errs), err)
		}
		err = completion(&f)
		if err != nil && (!errors.As(err, new(*ResponseError)) || f.tag == "*") {
			return errs, err
		}
		errs = append(errs, err)
	}
	return errs, nil
}

func (c *Client) send(w *mbox.Write) error {
	switch w.Kind {
	case mbox.Reserve, mbox.Deactivate:
		c.command(w.Kind.String(), string(w.Name), string(w.Location))
	case mbox.Activate:
		c.command(w.Kind.String(), string(w.Name), string(w.Location), string(w.ACL))
	case mbox.Delete:
		c.command(w.Kind.String(), string(w.Name))
	default:
		return fmt.Errorf("mupdate cannot send a %v", w.Kind)
	}
	return nil
}

// Events are the callbacks of a follower, called by one goroutine. Each may be nil.
type Events struct {
	// Begin announces a dump that replaces everything known.
	Begin func()
	// Row is a record of the dump or, after Synced, a change: an absent State is a deletion. Rows may
	// repeat, and deletions may concern unknown names.
	Row func(mbox.Entry) error
	// Synced says that the dump is complete: what was not in it is gone.
	Synced func() error
	// Lost says why the stream broke, before Follow tries again.
	Lost func(error)
}

// Update follows the map, or the records of some servers, until the connection or ctx ends; the
// error says which. Silence is probed with NOOP after a third of Timeout.
func (c *Client) Update(ctx context.Context, hosts []mbox.Server, ev Events) error {
	defer c.bounded(ctx)()
	args := make([]string, len(hosts))
	for i, h := range hosts {
		args[i] = string(h)
	}
	tag := c.command("UPDATE", args...)
	if ev.Begin != nil {
		ev.Begin()
	}
	synced, probed := false, false
	c.quiet = func() bool {
		if !synced || probed || ctx.Err() != nil {
			return false
		}
		probed = true
		c.command("NOOP")
		return c.flushRenewed(ctx) == nil
	}
	defer func() { c.silence, c.quiet = c.cfg.Timeout, nil }()
	for {
		f, err := c.read(ctx)
		if err != nil {
			return describe(err, "UPDATE", args)
		}
		e, row, err := rowOf(&f)
		switch {
		case err != nil:
		case row:
			if ev.Row != nil {
				err = ev.Row(e)
			}
		case f.tag == tag && !synced:
			if err = completion(&f); err == nil {
				synced = true
				c.silence = c.cfg.Timeout / 3
				if ev.Synced != nil {
					err = ev.Synced()
				}
			}
		default:
			err = completion(&f)
			probed = false
		}
		if err != nil {
			return describe(err, "UPDATE", args)
		}
	}
}
