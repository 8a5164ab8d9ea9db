package auth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
)

// Exchange is one attempt to authenticate. It implements sasl.Server, is used by one goroutine, and
// is dropped without ceremony when the client cancels.
type Exchange struct {
	m      *Mechanisms
	ctx    context.Context
	conn   Conn
	mech   string
	server sasl.Server
	user   string // as given, for the log
	result Result
	begun  bool
	over   bool
}

var _ sasl.Server = (*Exchange)(nil)

// Start begins an exchange; ctx bounds all of it, also the pause. The name of the mechanism is
// matched without regard to case. Errors: ErrUnknownMechanism, ErrNeedsTLS, ErrTooManyFailures.
func (m *Mechanisms) Start(ctx context.Context, mech string, c Conn) (*Exchange, error) {
	mech = strings.ToUpper(mech)
	if err := m.usable(mech, c); err != nil {
		return nil, err
	}
	if m.blocked(c, "") {
		m.count(c, mech, ErrTooManyFailures)
		return nil, ErrTooManyFailures
	}
	x := &Exchange{m: m, ctx: ctx, conn: c, mech: mech}
	switch mech {
	case Plain:
		x.server = sasl.NewPlainServer(x.password)
	case Login:
		x.server = &loginServer{verify: x.password}
	case External:
		x.server = sasl.NewExternalServer(x.certificate)
	default:
		server, err := newScramServer(x)
		if err != nil {
			return nil, fmt.Errorf("starting %s: %w", mech, err)
		}
		x.server = server
	}
	return x, nil
}

// Next takes a decoded response and returns the next challenge. The first call gets the initial
// response, or nil if there was none; an empty initial response is empty and not nil. It blocks
// while a source is asked and for the pause before a refusal. After done or an error the exchange
// is over; errors wrap ErrRejected, ErrUnavailable, ErrNotAuthorized or ErrMalformed, or are ctx's.
//
// A mechanism with a final server message (SCRAM) sends it as one more challenge, to which the
// client answers with an empty response; done never comes with a challenge.
func (x *Exchange) Next(response []byte) (challenge []byte, done bool, err error) {
	if x.over {
		return nil, false, fmt.Errorf("%w: the exchange is over", ErrMalformed)
	}
	if x.begun && response == nil {
		response = []byte{} // go-sasl takes nil for "no initial response" at any time
	}
	x.begun = true
	began := time.Now()
	challenge, done, err = x.step(response)
	if err == nil && !done {
		return challenge, false, nil
	}
	x.over = true
	return nil, err == nil, x.m.settle(x.ctx, began, x.conn, x.mech, x.user, err)
}

func (x *Exchange) step(response []byte) (challenge []byte, done bool, err error) {
	if len(response) > MaxResponse {
		return nil, false, fmt.Errorf("%w: %d octets", ErrMalformed, len(response))
	}
	defer x.m.guard(&err)
	challenge, done, err = x.server.Next(response)
	if err != nil && !ours(err) && x.ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", ErrMalformed, err) // the mechanism's own complaint
	}
	return challenge, done, err
}

func ours(err error) bool {
	return errors.Is(err, ErrRejected) || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNotAuthorized) || errors.Is(err, ErrMalformed) ||
		errors.Is(err, ErrTooManyFailures)
}

// Result is valid once Next has returned done.
func (x *Exchange) Result() Result { return x.result }

// password ends PLAIN and LOGIN.
func (x *Exchange) password(authz, user, password string) error {
	x.user = user
	if x.m.blocked(x.conn, user) {
		return ErrTooManyFailures
	}
	account, err := x.m.verify(x.ctx, user, password, x.conn)
	if err != nil {
		return sourceErr(err)
	}
	x.result, err = x.m.authorize(x.ctx, account, authz)
	return sourceErr(err)
}

// certificate ends EXTERNAL.
func (x *Exchange) certificate(authz string) error {
	name, err := x.m.cfg.External(x.conn.TLS)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRejected, err)
	}
	x.user = name
	account, err := x.m.lookup(x.ctx, name)
	if err != nil {
		return sourceErr(err)
	}
	x.result, err = x.m.authorize(x.ctx, account, authz)
	return sourceErr(err)
}

// sourceErr marks an error that a source made up itself as temporary, lest it be taken for the client's.
func sourceErr(err error) error {
	if err == nil || ours(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// CertificateName returns whom a verified client certificate belongs to: its first e-mail address,
// otherwise its common name.
func CertificateName(state *tls.ConnectionState) (string, error) {
	if state == nil || len(state.VerifiedChains) == 0 {
		return "", errors.New("no verified client certificate")
	}
	leaf := state.VerifiedChains[0][0]
	if len(leaf.EmailAddresses) > 0 {
		return leaf.EmailAddresses[0], nil
	}
	if leaf.Subject.CommonName == "" {
		return "", errors.New("client certificate names nobody")
	}
	return leaf.Subject.CommonName, nil
}

// loginServer is the LOGIN mechanism: two questions, two answers. Some clients answer the first with
// the initial response.
type loginServer struct {
	verify func(authz, user, password string) error
	user   string
	asked  int
}

func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	if l.asked == 0 {
		l.asked++
		if response == nil {
			return []byte("Username:"), false, nil
		}
	}
	if l.asked == 1 {
		l.asked++
		l.user = string(response)
		return []byte("Password:"), false, nil
	}
	return nil, true, l.verify("", l.user, string(response))
}
