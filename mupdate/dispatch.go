package mupdate

import (
	"strings"

	"murder/internal/mbox"
)

// command describes a verb. Checks come in Cyrus's order: login, arguments, stream, read-only,
// execution (Cyrus: mupdate.c, docmd).
type command struct {
	min, max int                  // string arguments
	check    func([]token) string // instead of min and max
	early    bool                 // legal before login
	stream   bool                 // legal in an UPDATE stream
	writes   mbox.Kind
	run      func(c *conn, f *frame, args []string) error
}

var commands = map[string]command{
	"AUTHENTICATE": {check: checkAuth, early: true, stream: true, run: (*conn).authenticate},
	"STARTTLS":     {early: true, stream: true, run: (*conn).startTLS},
	"COMPRESS":     {min: 1, max: 1, early: true, run: (*conn).compress},
	"LOGOUT":       {early: true, stream: true, run: (*conn).logout},
	"NOOP":         {stream: true, run: (*conn).noop},
	"FIND":         {min: 1, max: 1, run: (*conn).find},
	"LIST":         {max: 1, run: (*conn).list},
	"UPDATE":       {check: checkHosts, run: (*conn).update},
	"RESERVE":      {min: 2, max: 2, writes: mbox.Reserve},
	"ACTIVATE":     {min: 3, max: 3, writes: mbox.Activate},
	"DEACTIVATE":   {min: 2, max: 2, writes: mbox.Deactivate},
	"DELETE":       {min: 1, max: 1, writes: mbox.Delete},
}

const longestVerb = len("AUTHENTICATE")

// dispatch carries out or queues one command. An error ends the session.
func (c *conn) dispatch(f *frame) error {
	verb := f.word
	if len(verb) <= longestVerb {
		verb = strings.ToUpper(verb)
	}
	cmd, known := commands[verb]
	if c.verb = verb; !known {
		c.verb = "other"
	}
	refusal := c.refusal(f, &cmd, known)
	if refusal == "" && cmd.writes != 0 {
		args, _ := f.strings()
		return c.write(f.tag, cmd.writes, args)
	}
	// Only writes wait for one another; anything else comes after the answers to those before.
	if err := c.commit(); err != nil {
		return err
	}
	if refusal != "" {
		tag, word := f.tag, "BAD"
		if !f.hasWord {
			tag = "*"
		}
		if refusal == loginFirst && c.srv.cfg.StrictRFC {
			word = "NO" // RFC 3656 section 4
		}
		c.reply(tag, word, refusal)
		return nil
	}
	args, _ := f.strings()
	return cmd.run(c, f, args)
}

const (
	loginFirst   = "Please login first"
	unrecognized = "Unrecognized command"
	missing      = "Missing arguments"
	extra        = "Extra arguments"
	streaming    = "not legal when streaming"
	readOnly     = "read-only session"
)

// refusal returns why a command is not looked at any further, or "".
func (c *conn) refusal(f *frame, cmd *command, known bool) string {
	switch {
	case !f.hasWord:
		return "Need command"
	case f.word == "":
		return "Null command"
	case !c.loggedIn && (known && !cmd.early || !known && strings.ContainsRune("ADFLNRU", rune(f.word[0]&^0x20))):
		return loginFirst // Cyrus looks at the first letter before anything else
	case !known:
		return unrecognized
	}
	text := ""
	if cmd.check != nil {
		text = cmd.check(f.args)
	} else {
		text = checkArgs(f.args, cmd.min, cmd.max)
	}
	switch {
	case text != "":
		return text
	case c.stream != nil && !cmd.stream:
		return streaming
	case cmd.writes != 0 && c.srv.cfg.ReadOnly:
		return readOnly
	}
	return ""
}

// checkArgs wants min to max strings. Cyrus calls a wrong argument missing when another should
// follow it, otherwise extra.
func checkArgs(args []token, min, max int) string {
	for i, t := range args {
		switch {
		case i >= max:
			return extra
		case t.kind == str:
		case i < min-1:
			return missing
		default:
			return extra
		}
	}
	if len(args) < min {
		return missing
	}
	return ""
}

const maxHosts = 30 // Cyrus: UPDATE takes no more

func checkHosts(args []token) string {
	for i, t := range args {
		if i >= maxHosts {
			return extra
		}
		if t.kind != str || t.text == "" {
			return "Badly formed arguments"
		}
	}
	return ""
}

// logout ends the session. RFC 3656 section 4.7 wants BYE; Cyrus sends OK, and its clients read any
// one line.
func (c *conn) logout(f *frame, _ []string) error {
	c.open = ""
	c.ending.loggedOut = true
	word := "OK"
	if c.srv.cfg.StrictRFC {
		word = "BYE"
	}
	c.reply(f.tag, word, "bye-bye")
	return errLogout
}

// noop in a stream is the point at which a frontend knows to have read its own writes: all that was
// committed before it is sent before the answer (RFC 3656 section 4.8). A learner confirms its copy
// outside a stream too.
func (c *conn) noop(f *frame, _ []string) error {
	const done = "Noop done"
	if c.stream == nil && c.srv.cfg.Upstream == "" {
		c.reply(f.tag, "OK", done)
		return nil
	}
	text := done
	if err := c.barrier(c.srv.cfg.NoopTimeout); err != nil {
		if c.srv.cfg.NoopStrict {
			return bye(noQuorum)
		}
		// A refusal would make a Cyrus slave drop its copy and hang the frontend's look-ups; it goes on
		// with stale data in any case.
		c.srv.metrics.degraded.Inc()
		text += " (degraded)"
	}
	if c.stream == nil {
		c.reply(f.tag, "OK", text)
		return nil
	}
	c.srv.metrics.commands.WithLabelValues(c.verb, "OK").Inc()
	// Not the barrier's own index: it may be that of an entry which is no change of the map.
	c.stream.post(post{tag: f.tag, word: "OK", text: text, after: c.srv.cfg.Directory.View().Index()})
	return nil
}
