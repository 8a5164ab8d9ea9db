// Package pop3 is the POP3 frontend: it logs the user in (RFC 1939, RFC 5034), finds his backend in
// the map, signs on there in his name, and then carries octets.
//
// RFC 1939 with CAPA (RFC 2449), STLS (RFC 2595), SASL (RFC 5034), and the response codes of RFC 2449
// and RFC 3206. Until login the answers are ours; afterwards they are the backend's. What is never
// done: saying QUIT for a client that did not say it, because QUIT deletes messages.
//
// Known gaps: no UTF8 and LANG (Cyrus has neither), no KPOP, and no APOP: it needs passwords kept
// readable, and who listens can try them out offline against its MD5. SCRAM through AUTH does what it was for.
package pop3

import (
	"context"
	"errors"
	"strings"

	"murder/internal/auth"
	"murder/internal/backend"
	"murder/internal/imapwire"
	"murder/internal/mbox"
	"murder/proxy/login"
)

// Config says how a Server works.
type Config struct {
	login.Config
	// Subfolders opens FOLDER instead of INBOX for USER name+FOLDER. Cyrus: popsubfolders.
	Subfolders bool
}

// Server is a POP3 frontend: Serve, Shutdown, Sessions and Kick are login.Server's.
type Server struct{ *login.Server }

// New returns a server that listens on nothing yet.
func New(cfg Config) (*Server, error) {
	base, err := login.NewServer(cfg.Config, login.Protocol{
		Name:    "pop3",
		Service: backend.POP3,
		Full:    "-ERR [IN-USE] Too many connections\r\n",
		Run:     func(c *login.Session) { (&session{Session: c, subfolders: cfg.Subfolders}).run() },
	})
	if err != nil {
		return nil, err
	}
	return &Server{base}, nil
}

// maxLine is the longest command in octets. RFC 2449 says 255, but a password may be longer.
const maxLine = 8192

// session is one client until login.
type session struct {
	*login.Session
	subfolders bool
	user       string // as given in USER, "" without
}

// errLeave ends a session that has been told why.
var errLeave = errors.New("session is over")

func (s *session) run() {
	s.Say("+OK " + s.Config().Hostname + " POP3 server ready\r\n")
	for {
		line, err := s.ReadLine(maxLine)
		if err == nil {
			err = s.command(line)
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, errLeave):
		case s.Ending() != "":
			s.Say("-ERR [SYS/TEMP] " + s.Ending() + "\r\n")
		case errors.Is(err, login.ErrTLSOctets):
			s.Say("-ERR TLS begins with STLS here\r\n")
		case errors.Is(err, imapwire.ErrLineTooLong):
			s.Say("-ERR Line too long\r\n")
		}
		return
	}
}

// command executes one command of the authorization state. Its error ends the session.
func (s *session) command(line string) error {
	verb, arg, _ := strings.Cut(line, " ")
	user := s.user
	s.user = ""
	switch strings.ToUpper(verb) {
	case "CAPA":
		s.user = user
		return s.Say(s.capabilities())
	case "STLS":
		return s.stls(arg)
	case "USER":
		return s.name(arg)
	case "PASS":
		if user == "" {
			return s.bad("-ERR USER first")
		}
		return s.password(user, arg)
	case "AUTH":
		return s.auth(strings.TrimSpace(arg))
	case "QUIT":
		s.Say("+OK\r\n")
		return errLeave
	}
	return s.bad("-ERR Unrecognized command")
}

// bad answers a command that makes no sense.
func (s *session) bad(text string) error {
	s.Say(text + "\r\n")
	if s.BadCommand() {
		s.Say("-ERR Too many bad commands\r\n")
		return errLeave
	}
	return nil
}

// capabilities lists what holds before login, and what every Cyrus backend holds to afterwards.
func (s *session) capabilities() string {
	var b strings.Builder
	b.WriteString("+OK List of capabilities follows\r\n")
	if mechs := s.Config().Auth.Names(s.Conn()); len(mechs) > 0 {
		b.WriteString("SASL " + strings.Join(mechs, " ") + "\r\n")
	}
	if s.Config().TLS != nil && !s.TLS() {
		b.WriteString("STLS\r\n")
	}
	if s.Config().Auth.PlaintextAllowed(s.Conn()) {
		b.WriteString("USER\r\n")
	}
	b.WriteString("TOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\nEXPIRE NEVER\r\n")
	b.WriteString(strings.TrimSpace("IMPLEMENTATION murder "+s.Config().Version) + "\r\n.\r\n")
	return b.String()
}

func (s *session) stls(arg string) error {
	switch {
	case arg != "":
		return s.bad("-ERR STLS takes no argument")
	case s.TLS():
		return s.bad("-ERR TLS is active already")
	case s.Config().TLS == nil:
		return s.bad("-ERR TLS is not available")
	}
	if err := s.Say("+OK Begin TLS negotiation now\r\n"); err != nil {
		return err
	}
	return s.StartTLS(s.Config().TLS)
}

// name executes USER, which never tells whether the name exists.
func (s *session) name(arg string) error {
	if !s.Config().Auth.PlaintextAllowed(s.Conn()) {
		return s.bad("-ERR [AUTH] Use STLS first")
	}
	if arg = strings.TrimSpace(arg); arg == "" {
		return s.bad("-ERR Missing name")
	}
	s.user = arg
	return s.Say("+OK Name is a valid mailbox\r\n")
}

func (s *session) password(user, password string) error {
	folder := ""
	if s.subfolders {
		user, folder, _ = strings.Cut(user, "+")
	}
	account, err := s.Config().Auth.Password(s.Ctx, user, password, s.Conn())
	if err != nil {
		return s.failed(err)
	}
	return s.enter(account, folder)
}

// enter signs on to the backend and becomes a pipe.
func (s *session) enter(account auth.Account, folder string) error {
	ns := s.Config().Namespace
	authz, name := account.Name, ns.Inbox(mbox.UserID(account.Name))
	if folder != "" {
		view := ns.View(mbox.UserID(account.Name), false, false)
		ext := folder
		if !ns.Alt {
			ext = "INBOX" + string(ns.Separator()) + folder
		}
		internal, err := view.Internal(mbox.Extern(ext))
		if err != nil {
			return s.failed(login.ErrNoMailbox)
		}
		authz, name = authz+"+"+folder, internal
	}
	var consent string
	b, err := s.Connect(account, authz, name, func(ctx context.Context, b *login.Backend, authz string) (err error) {
		consent, err = signOn(ctx, b, authz)
		return err
	})
	if err != nil {
		return s.failed(err)
	}
	if err := s.Say(consent + "\r\n"); err != nil {
		return err
	}
	var d dialogue
	s.Pipe(b, func() error { return d.up(s.Session, b) }, func() error { return d.down(s.Session, b) }, nil)
	return errLeave
}

// failed answers a login that did not come about; the session stays where it was.
func (s *session) failed(err error) error {
	enough := s.LoginFailed(err)
	var refused *login.Refused
	text := "[SYS/TEMP] Server unavailable"
	switch {
	case s.Ctx.Err() != nil:
		return s.Ctx.Err()
	case errors.Is(err, auth.ErrRejected):
		text = "[AUTH] Invalid login"
	case errors.Is(err, auth.ErrNotAuthorized):
		text = "[AUTH] Not authorized to act as that user"
	case errors.Is(err, auth.ErrNeedsTLS):
		text = "[AUTH] Use STLS first"
	case errors.Is(err, auth.ErrUnavailable):
		text = "[SYS/TEMP] Authentication is temporarily unavailable"
	case errors.Is(err, login.ErrTooMany):
		text = "[IN-USE] Too many connections"
	case errors.Is(err, login.ErrNoMailbox):
		text = "[SYS/PERM] No maildrop"
	case errors.Is(err, login.ErrMoving):
		text = "[SYS/TEMP] Mailbox is being moved"
	case errors.Is(err, mbox.ErrUnavailable):
		text = "[SYS/TEMP] Directory unavailable"
	case errors.As(err, &refused) && refused.Code == "":
		text = "[SYS/TEMP] " + refused.Text
	case refused != nil && strings.HasPrefix(refused.Text, "[SYS/PERM]"):
		// Cyrus: that is its word for a mailbox that it does not have. The map says that it has.
		s.Log.Error("backend does not have a mailbox that is recorded there", "err", refused.Text, "hint", "run ctl_mboxlist -mw on that backend")
		text = "[SYS/TEMP] Mailbox is not available"
	case refused != nil:
		text = refused.Text
	}
	if sayErr := s.Say("-ERR " + text + "\r\n"); sayErr != nil || enough {
		return errLeave
	}
	return nil
}
