package imap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
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

	texts capTexts
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
	nc, err := p.Backends.Dial(ctx, server, backend.IMAP)
	if err != nil {
		return false, err
	}
	defer nc.Close()
	so, unhook := newSignOn(ctx, server, nc, &p.texts)
	defer unhook()
	if err := so.greet(ctx, nil); err != nil {
		return false, err
	}
	if !nc.Secured() && !p.Backends.Settings(server).AllowPlaintext {
		return false, errors.New("the password would cross the network in clear; set tls, or allow_plaintext, for this backend")
	}
	st, code, text, err := so.check(user, password)
	switch {
	case err != nil:
		return false, err
	case st == statusOK:
		so.send("LOGOUT")
		return true, nil
	case codeName(code) == "UNAVAILABLE", st == statusBad:
		return false, fmt.Errorf("refused: %.200s", text)
	}
	return false, nil
}

// check tries to log in with a password.
func (so *signOn) check(user, password string) (st status, code, text string, err error) {
	if so.caps.has("AUTH=PLAIN") {
		x, err := so.beginSASL("PLAIN", sasl.NewPlainClient("", user, password))
		if err != nil {
			return 0, "", "", err
		}
		return so.conclude(x)
	}
	cmd := append(imapwire.AppendString([]byte("LOGIN "), user), ' ')
	_, err = so.ask(string(imapwire.AppendString(cmd, password)))
	var refused *refusedError
	if errors.As(err, &refused) {
		return refused.status, refused.code, refused.text, nil
	}
	return statusOK, "", "", err
}

var _ auth.Source = (*PassThrough)(nil)
