package lmtp

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"murder/internal/auth"
	"murder/internal/backend"
	"murder/internal/mbox"
)

// sizeSlack is by how much a client may overstate a message.
//
// Exim announces some 1 KiB more than it sends.
const sizeSlack = 2048

// transaction is one message: MAIL, its recipients, and what came of them.
type transaction struct {
	envelope
	rcpts []*recipient
	began time.Time
	holds map[mbox.Server]*hold
	since time.Time // of the first of holds
}

// recipient is one accepted RCPT.
type recipient struct {
	index       int // position in the transaction
	address     Address
	route       Route
	ignoreQuota bool
	moved       bool // has been sent to a second backend already
	settled     bool // has got its final reply
}

// command serves one command line.
func (ss *session) command(line string) {
	verb, args := splitCommand(line)
	bad := ss.bad
	switch verb {
	case "LHLO":
		ss.hello(args)
	case "HELO", "EHLO":
		ss.wrong(replyNotSMTP)
	case "STARTTLS":
		ss.verbStartTLS(args)
	case "AUTH":
		ss.verbAuth(args)
	case "MAIL":
		ss.mail(args)
	case "RCPT":
		ss.rcpt(args)
	case "DATA":
		ss.verbData(args)
	case "BDAT":
		ss.bdat(args)
	case "RSET":
		ss.reset()
		ss.say(replyOK)
	case "NOOP":
		ss.say(replyOK)
	case "VRFY":
		if !ss.allowed() {
			ss.refuseUntrusted()
		} else {
			ss.say(replyVrfy)
		}
	case "QUIT":
		ss.say(replyBye)
		ss.over = true
	default:
		ss.wrong(replyUnknownCommand)
	}
	if ss.bad == bad && verb != "NOOP" && verb != "RSET" {
		ss.bad = 0
	}
}

func (ss *session) refuseUntrusted() {
	if ss.cfg.SoftNoAuth {
		ss.say(replyUntrustedSoft)
	} else {
		ss.say(replyUntrusted)
	}
}

// hello answers LHLO, which also resets the session (RFC 5321 section 4.1.4).
func (ss *session) hello(name string) {
	if !validName(name) {
		ss.wrong(replySyntax)
		return
	}
	ss.reset()
	ss.lhlo = name
	lines := []string{ss.cfg.Hostname, "PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME", ss.sizeKeyword()}
	if ss.cfg.TLS != nil && ss.tls == nil && ss.peer.IsValid() {
		lines = append(lines, "STARTTLS")
	}
	if ss.cfg.Auth != nil && ss.authc == "" {
		if mechs := ss.cfg.Auth.Names(ss.authConn()); len(mechs) > 0 {
			lines = append(lines, "AUTH "+strings.Join(mechs, " "))
		}
	}
	lines = append(lines, "IGNOREQUOTA", "Ok SESSIONID=<"+ss.id+">")
	ss.say(reply{250, lines})
}

func (ss *session) sizeKeyword() string {
	size := ss.cfg.MaxMessage
	if size == 0 {
		size = ss.srv.pools.smallestSize()
	}
	if size == 0 {
		return "SIZE"
	}
	return "SIZE " + strconv.FormatInt(size, 10)
}

func (ss *session) verbStartTLS(args string) {
	switch {
	case args != "":
		ss.wrong(replySyntax)
	case ss.tx != nil || ss.tls != nil:
		ss.wrong(replySequence)
	case ss.cfg.TLS == nil || !ss.peer.IsValid():
		ss.say(replyNoTLS)
	default:
		ss.say(replyStartTLS)
		if ss.flush() != nil {
			ss.over = true
			return
		}
		if err := ss.startTLS(ss.cfg.TLS); err != nil {
			ss.log.Debug("tls handshake failed", "err", err)
			ss.over = true
		}
	}
}

func (ss *session) verbAuth(args string) {
	mech, initial, hasInitial := strings.Cut(args, " ")
	switch {
	case mech == "":
		ss.wrong(replySyntax)
		return
	case ss.tx != nil || ss.authc != "" || ss.lhlo == "":
		ss.wrong(replySequence)
		return
	case ss.cfg.Auth == nil:
		ss.say(replyAuthUnknown)
		return
	}
	ctx, cancel := context.WithTimeout(ss.srv.ctx, ss.cfg.Limits.Idle)
	defer cancel()
	exchange, err := ss.cfg.Auth.Start(ctx, mech, ss.authConn())
	if err != nil {
		ss.refuseAuth(err)
		return
	}
	var response []byte
	if hasInitial {
		if response, err = decodeResponse(initial); err != nil {
			ss.wrong(replyAuthSyntax)
			return
		}
	}
	for {
		challenge, done, err := exchange.Next(response)
		if err != nil {
			ss.refuseAuth(err)
			return
		}
		if done {
			ss.authenticated(exchange.Result())
			return
		}
		ss.say(answer(334, base64.StdEncoding.EncodeToString(challenge)))
		line, err := ss.readLine(auth.MaxEncoded, ss.cfg.Limits.Idle)
		switch {
		case errors.Is(err, errLongLine):
			ss.wrong(replyLongLine)
			return
		case err != nil:
			ss.farewell(err)
			ss.over = true
			return
		case line == "*":
			ss.wrong(replyAuthCancelled)
			return
		}
		if response, err = base64.StdEncoding.DecodeString(line); err != nil {
			ss.wrong(replyAuthSyntax)
			return
		}
	}
}

// decodeResponse reads an initial response, in which "=" stands for an empty one (RFC 4954 section 4).
func decodeResponse(s string) ([]byte, error) {
	if s == "=" {
		return []byte{}, nil
	}
	return base64.StdEncoding.DecodeString(s)
}

// authenticated admits those who may deliver. An ordinary user may not, with the right password
// either, and waits as long as one with a wrong one.
func (ss *session) authenticated(res auth.Result) {
	admin := slices.Contains(ss.cfg.Admins, res.Authc) || res.Authc == res.Authz && res.Account.Admin
	if !admin {
		ss.log.Info("login refused", "user", res.Authc, "err", "may not deliver mail")
		timer := time.NewTimer(ss.cfg.Limits.AuthPause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ss.srv.ctx.Done():
		}
		ss.wrong(replyAuthFailed)
		return
	}
	ss.authc = res.Authc
	ss.say(replyAuthOK)
}

func (ss *session) refuseAuth(err error) {
	switch {
	case errors.Is(err, auth.ErrUnknownMechanism):
		ss.wrong(replyAuthUnknown)
	case errors.Is(err, auth.ErrNeedsTLS):
		ss.wrong(replyAuthNeedsTLS)
	case errors.Is(err, auth.ErrRejected), errors.Is(err, auth.ErrNotAuthorized):
		ss.wrong(replyAuthFailed)
	case errors.Is(err, auth.ErrMalformed):
		ss.wrong(replyAuthSyntax)
	default:
		ss.say(replyAuthLater)
	}
}

func (ss *session) mail(args string) {
	switch {
	case !ss.allowed():
		ss.refuseUntrusted()
		return
	case ss.lhlo == "" || ss.tx != nil:
		ss.wrong(replySequence)
		return
	}
	// A refused MAIL leaves nothing behind.
	env, refusal := parseMail(args)
	switch limit := ss.cfg.MaxMessage; {
	case refusal.code != 0:
		ss.wrong(refusal)
	case limit > 0 && env.size > limit && env.size-limit > sizeSlack:
		ss.say(replyTooBig)
	default:
		ss.tx = &transaction{envelope: env, began: time.Now()}
		ss.setBusy(true)
		ss.say(replySender)
	}
}

func (ss *session) rcpt(args string) {
	if ss.tx == nil {
		ss.wrong(replySequence)
		return
	}
	address, ignoreQuota, refusal := parseRcpt(args)
	if refusal.code != 0 {
		ss.wrong(refusal)
		return
	}
	if len(ss.tx.rcpts) >= ss.cfg.Limits.Recipients {
		ss.say(replyTooMany)
		return
	}
	route, sure := ss.cfg.Resolver.Peek(address, mbox.UserID(ss.tx.poster))
	if !sure {
		// This takes a while; what has been answered so far need not wait.
		if ss.flush() != nil {
			ss.over = true
			return
		}
		route = ss.cfg.Resolver.Resolve(ss.srv.ctx, address, mbox.UserID(ss.tx.poster))
	}
	rc := &recipient{index: len(ss.tx.rcpts), address: address, route: route, ignoreQuota: ignoreQuota}
	rep := ss.srv.replyFor(route)
	switch {
	case route.Status != Found:
	case ss.cfg.Backends.Broken(route.Server, backend.LMTP):
		rep = replyUnreachable
	case ss.cfg.CheckAtBackend:
		rep = ss.ask(rc)
	}
	if !rep.is2xx() {
		if route.Status == Loop {
			ss.srv.alertLoop(ss.log, route)
		}
		ss.srv.metrics.recipients.WithLabelValues("rcpt", resultOf(rep)).Inc()
		ss.log.Info("recipient not accepted", "mailbox", string(route.Name), "rcpt", address.Path, "reply", rep.String())
		ss.say(rep)
		return
	}
	ss.tx.rcpts = append(ss.tx.rcpts, rc)
	ss.say(replyRecipient)
	ss.tellFirst()
}

// bdat refuses what was not offered, but takes the octets that come with it: they must not be read
// as commands.
func (ss *session) bdat(args string) {
	size, _, _ := strings.Cut(args, " ")
	n, ok := parseSize(size)
	ss.wrong(replyNoChunking)
	if !ok {
		ss.over = true // no telling where the next command begins
		return
	}
	for n > 0 {
		if ss.more(ss.cfg.Limits.Data) != nil {
			ss.over = true
			return
		}
		step, _ := ss.in.Discard(int(min(n, int64(ss.in.Buffered()))))
		n -= int64(step)
	}
}
