package mupdate

import (
	"errors"
	"slices"
	"strings"

	"murder/internal/mbox"
)

// write authorises RESERVE, ACTIVATE, DEACTIVATE or DELETE and queues it. Consecutive writes are
// proposed together: one round of replication for all that a client has pipelined.
func (c *conn) write(tag string, kind mbox.Kind, args []string) error {
	w := mbox.Write{Kind: kind, Name: c.name(args[0])}
	if kind != mbox.Delete {
		w.Location = mbox.Location(args[1])
	}
	if kind == mbox.Activate {
		w.ACL = mbox.ACL(args[2])
	}
	if refusal := c.mayWrite(&w); refusal != "" {
		if err := c.commit(); err != nil {
			return err
		}
		if c.ending.refuse(kind); c.ending.half != "" {
			c.undoRename()
		}
		c.reply(tag, "NO", refusal)
		return nil
	}
	c.learn(w.Location.Server())
	w.By = c.session
	if kind == mbox.Activate && w.Name == c.withheld {
		// Cyrus: ctl_mboxlist -m without -a sends this although FIND was refused. It is no takeover.
		w.By.Flags &^= mbox.Takeover
	}
	c.pending = append(c.pending, w)
	c.tags = append(c.tags, tag)
	if len(c.pending) >= c.srv.cfg.ReadAhead {
		return c.commit()
	}
	return nil
}

func (c *conn) mayWrite(w *mbox.Write) string {
	if c.role == Reader {
		return "not permitted: this identity may only read"
	}
	if err := w.Name.Validate(); err != nil {
		return err.Error()
	}
	if w.Kind == mbox.Delete {
		return ""
	}
	if err := w.Location.Validate(); err != nil {
		return err.Error()
	}
	if server := w.Location.Server(); len(c.bound) > 0 && !slices.Contains(c.bound, server) {
		c.log.Warn("write for another server refused", "user", c.session.Identity, "cmd", w.Kind.String(),
			"mailbox", w.Name, "backend", server)
		return "not permitted: this identity may not write for " + string(server)
	}
	return ""
}

// name takes a mailbox name from the wire. Names are opaque but for the default domain, which Cyrus
// omits in some versions and spells out in others.
func (c *conn) name(s string) mbox.Name {
	if domain := c.srv.cfg.DefaultDomain; domain != "" {
		if rest, ok := strings.CutPrefix(s, domain); ok && strings.HasPrefix(rest, "!") {
			s = rest[1:]
		}
	}
	return mbox.Name(s)
}

// commit proposes the queued writes and answers them in order.
func (c *conn) commit() error {
	if len(c.pending) == 0 {
		return nil
	}
	if err := c.flush(); err != nil {
		return err
	}
	ctx, cancel := c.context(c.srv.cfg.CommandTimeout)
	defer cancel()
	c.wrote, c.open = true, c.pending[len(c.pending)-1].Name
	verdicts, err := c.srv.cfg.Directory.Write(ctx, c.pending)
	unavailable := errors.Is(err, mbox.ErrUnavailable)
	if !unavailable && (err != nil || len(verdicts) != len(c.pending)) {
		c.log.Warn("closing because the outcome of writes is unknown", "user", c.session.Identity,
			"writes", len(c.pending), "mailbox", c.pending[0].Name, "err", err)
		c.pending = nil
		return errNoReply
	}
	c.open = ""
	for i := range c.pending {
		w := &c.pending[i]
		verb := w.Kind.String()
		if unavailable {
			c.ending.refuse(w.Kind)
			c.replyTo(verb, c.tags[i], "NO", noQuorum)
			continue
		}
		word, text := render(w, verdicts[i])
		switch {
		case word == "":
			c.pending = nil
			return errNoReply
		case word == "OK":
			c.open = w.Name
			c.ending.made(w)
		case word == "NO":
			c.ending.decidedNo()
			c.log.Info("write refused", "user", c.session.Identity, "cmd", verb, "mailbox", w.Name,
				"backend", w.Location.Server(), "outcome", verdicts[i].Outcome.String(), "holder", verdicts[i].Holder)
		}
		c.replyTo(verb, c.tags[i], word, text)
	}
	if cap(c.pending) > 16 {
		c.pending, c.tags = nil, nil
	} else {
		clear(c.pending)
		c.pending, c.tags = c.pending[:0], c.tags[:0]
	}
	return nil
}

// render puts a verdict into words: Cyrus's where Cyrus has any. word is "" if nothing true can be
// said.
func render(w *mbox.Write, v mbox.Verdict) (word, text string) {
	switch v.Outcome {
	case mbox.Done:
		return "OK", "done"
	case mbox.Exists:
		return "NO", "mailbox already exists"
	case mbox.NotExist:
		return "NO", "mailbox doesn't exist"
	case mbox.NotActive:
		return "NO", "mailbox not currently active"
	case mbox.Conflict:
		return "NO", conflictText(w.Name, v.Holder)
	case mbox.InTransfer:
		return "NO", inTransfer
	case mbox.Outdated:
		return "NO", string(w.Name) + " was deleted from " + string(v.Holder.Server())
	case mbox.Unbound:
		return "NO", "not permitted: this session's server is not known"
	}
	return "", ""
}

const inTransfer = "in transfer"

func conflictText(name mbox.Name, holder mbox.Location) string {
	return "conflict: " + string(name) + " is held by " + string(holder.Server())
}
