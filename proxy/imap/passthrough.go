package imap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"time"

	"github.com/emersion/go-sasl"

	"murder/internal/auth"
	"murder/internal/backend"
	"murder/internal/imapwire"
	"murder/internal/mbox"
)

// PassThrough is a source of accounts for sites whose backends alone know the passwords: it logs in, as
// the user, at the backend of the user's INBOX, and out again. A user without an INBOX is asked about at
// some backend, always the same, so that an unknown name takes as long as a wrong password; and so a new
// user, for whom a mailbox is to be made, or an administrator can log in.
//
// It cannot tell an unknown user from a wrong password, and belongs at the end of a chain.
type PassThrough struct {
	Directory Directory
	Backends  interface {
		Backends
		Settings(mbox.Server) backend.Settings
	}
	Namespace mbox.Namespace
	Timeout   time.Duration // of the login at the backend; 0 means 10 s

	caps capTable
}

// seed spreads users without an INBOX over the backends.
var seed = maphash.MakeSeed()

// Verify implements auth.Source.
func (p *PassThrough) Verify(ctx context.Context, user, password string, _ auth.Conn) (auth.Account, error) {
	server, err := p.server(ctx, user)
	if err != nil {
		return auth.Account{}, fmt.Errorf("finding the backend of %s: %w: %w", user, auth.ErrUnavailable, err)
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(p.Timeout, 10*time.Second))
	defer cancel()
	switch ok, err := p.login(ctx, server, user, password); {
	case err != nil:
		return auth.Account{}, fmt.Errorf("asking %s about %s: %w: %w", server, user, auth.ErrUnavailable, err)
	case !ok:
		return auth.Account{}, auth.ErrRejected
	}
	return auth.Account{Name: user}, nil
}

// server is where a user's password is checked.
func (p *PassThrough) server(ctx context.Context, user string) (mbox.Server, error) {
	inbox := p.Namespace.Inbox(mbox.UserID(user))
	e, ok := p.Directory.View().Get(inbox)
	if !ok || e.State != mbox.Active {
		if _, err := p.Directory.Barrier(ctx); err != nil {
			return "", err
		}
		e, ok = p.Directory.View().Get(inbox)
	}
	if ok {
		return e.Location.Server(), nil
	}
	servers := p.Backends.Servers()
	if len(servers) == 0 {
		return "", errors.New("no backend is configured by its name")
	}
	return servers[maphash.String(seed, user)%uint64(len(servers))], nil
}

// login reports whether a backend lets a user in. What is said of it is not about us: a refusal neither
// alarms the operator nor makes us pause.
func (p *PassThrough) login(ctx context.Context, server mbox.Server, user, password string) (bool, error) {
	k := keeperOf(ctx)
	if k != nil && k.err != nil {
		return false, k.err
	}
	l := &userLogin{user: user, password: password, clear: p.Backends.Settings(server).AllowPlaintext, kept: k != nil}
	so, err := access{p.Backends, &p.caps, cmp.Or(p.Timeout, 10*time.Second)}.signOn(ctx, server, k.introduction(), l)
	switch {
	case err != nil:
		return false, err
	case l.ok && k != nil:
		k.keep(so, user)
		return true, nil
	case l.ok:
		so.nc.SetWriteDeadline(time.Now().Add(time.Second))
		so.send("LOGOUT")
	default:
		p.caps.greet(server, nil) // maybe it takes no such login any more: the next one hears for itself
	}
	so.nc.Close()
	return l.ok, l.err
}

// userLogin is the login of a user by a password, which may be wrong: that is no error.
type userLogin struct {
	user, password string
	clear          bool // the password may cross the network in clear
	kept           bool // the connection will be used
	// The answer: whether it is right, or why that cannot be said.
	ok  bool
	err error
}

func (l *userLogin) once() bool { return true }

func (l *userLogin) outdated(known, now capSet) bool {
	return slices.ContainsFunc([]string{"AUTH=PLAIN", "SASL-IR", "LOGINDISABLED"}, func(name string) bool { return known.has(name) != now.has(name) })
}

func (l *userLogin) begin(so *signOn) (*exchangeSASL, error) {
	if !so.nc.Secured() && !l.clear {
		return nil, errors.New("the password would cross the network in clear; set tls, or allow_plaintext, for this backend")
	}
	if so.caps.has("AUTH=PLAIN") {
		return so.beginSASL("PLAIN", sasl.NewPlainClient("", l.user, l.password))
	}
	cmd := append(imapwire.AppendString([]byte("LOGIN "), l.user), ' ')
	tag, err := so.sendLogin(string(imapwire.AppendString(cmd, l.password)))
	return &exchangeSASL{tag: tag}, err
}

func (l *userLogin) end(so *signOn, st status, code, text string) error {
	switch l.ok = st == statusOK; {
	case l.ok && l.kept:
		return so.capsFrom(code)
	case codeName(code) == "UNAVAILABLE", st == statusBad:
		l.err = fmt.Errorf("refused: %.200s", text)
	}
	return nil
}

// keeper takes the connection by which a user has been verified, for the session that asked: that the user logs in
// there once more, by our identity, is spared.
type keeper struct {
	hello string // to be said on it
	err   error  // why there must be none
	so    *signOn
	user  string
}

type keeperKey struct{}

// keeperOf returns the keeper that whoever asks has, nil if none.
func keeperOf(ctx context.Context) *keeper {
	k, _ := ctx.Value(keeperKey{}).(*keeper)
	return k
}

func (k *keeper) introduction() string {
	if k == nil {
		return ""
	}
	return k.hello
}

func (k *keeper) keep(so *signOn, user string) {
	k.drop()
	k.so, k.user = so, user
}

// drop closes a connection that nobody has taken.
func (k *keeper) drop() {
	if k.so != nil {
		k.so.nc.Close()
		k.so = nil
	}
}

// verifying returns the context in which the client is to be verified, and what keeps the connection.
func (s *session) verifying() (context.Context, *keeper) {
	hello, err := s.introduction()
	k := &keeper{hello: hello, err: err}
	return context.WithValue(s.ctx, keeperKey{}, k), k
}

// adopt makes the connection that has been kept one of the session's, if it is that of its user: the client may have
// logged in as one user to act for another.
func (s *session) adopt(k *keeper) {
	if k.so == nil || k.user != string(s.user) {
		return
	}
	so := k.so
	k.so = nil
	c, err := s.take(so)
	if err != nil {
		s.log().Debug("connection not kept", "backend", so.server, "err", err)
		return
	}
	c.asked = true // and so may have ended when it is used
}

var _ auth.Source = (*PassThrough)(nil)
