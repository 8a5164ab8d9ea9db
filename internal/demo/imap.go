package demo

import (
	"slices"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-imap/v2/imapserver/imapmemserver"
	"github.com/emersion/go-sasl"

	"murder/internal/mbox"
)

// session is one IMAP session. It translates the client's names to internal ones and keeps users to
// their own mailboxes; the in-memory server does the rest.
type session struct {
	*imapmemserver.UserSession // nil before login

	b      *Backend
	user   mbox.UserID
	admin  bool
	viewer mbox.Viewer
}

var (
	_ imapserver.SessionIMAP4rev2 = (*session)(nil)
	_ imapserver.SessionSASL      = (*session)(nil)
)

func (s *session) Close() error {
	if s.UserSession == nil {
		return nil
	}
	return s.UserSession.Close()
}

func (s *session) AuthenticateMechanisms() []string { return []string{sasl.Plain} }

// Authenticate accepts an administrator who acts for a user: how every frontend signs on.
func (s *session) Authenticate(mech string) (sasl.Server, error) {
	if mech != sasl.Plain {
		return nil, no("", "Unsupported mechanism")
	}
	return sasl.NewPlainServer(func(authz, name, password string) error {
		switch {
		case authz != "" && authz != name:
			if !s.b.admin(name, password) {
				return imapserver.ErrAuthFailed
			}
			_, admin := s.b.cfg.Admins[authz]
			return s.enter(authz, admin)
		default:
			return s.Login(name, password)
		}
	}), nil
}

func (s *session) Login(name, password string) error {
	switch {
	case s.b.admin(name, password):
		return s.enter(name, true)
	case s.b.user(name, password):
		return s.enter(name, false)
	}
	return imapserver.ErrAuthFailed
}

func (s *session) enter(name string, admin bool) error {
	user, err := s.b.cfg.Namespace.Canonical(name)
	if err != nil {
		return imapserver.ErrAuthFailed
	}
	s.user, s.admin = user, admin
	s.viewer = s.b.cfg.Namespace.View(user, admin, false)
	s.UserSession = imapmemserver.NewUserSession(s.b.store)
	return nil
}

// internal translates a name and refuses what this user may not touch, as if it did not exist.
func (s *session) internal(name string) (mbox.Name, error) {
	n, err := s.viewer.Internal(mbox.Extern(name))
	if err != nil || !s.mayUse(n) {
		return "", no(imap.ResponseCodeNonExistent, "Mailbox does not exist")
	}
	return n, nil
}

func (s *session) mayUse(n mbox.Name) bool { return s.admin || s.viewer.Owns(n) }

func (s *session) Select(name string, o *imap.SelectOptions) (*imap.SelectData, error) {
	n, err := s.internal(name)
	if err != nil {
		return nil, err
	}
	return s.UserSession.Select(string(n), o)
}

func (s *session) Create(name string, _ *imap.CreateOptions) error {
	n, err := s.internal(name)
	if err != nil {
		return err
	}
	return s.b.create(n)
}

func (s *session) Delete(name string) error {
	n, err := s.internal(name)
	if err != nil {
		return err
	}
	return s.b.remove(n)
}

func (s *session) Rename(from, to string, _ *imap.RenameOptions) error {
	old, err := s.internal(from)
	if err != nil {
		return err
	}
	renamed, err := s.internal(to)
	if err != nil {
		return err
	}
	return s.b.rename(old, renamed)
}

// Subscribe takes any name: a Murder's backend keeps subscriptions to mailboxes that live elsewhere
// (Cyrus: allowallsubscribe).
func (s *session) Subscribe(name string) error {
	n, err := s.viewer.Internal(mbox.Extern(name))
	if err != nil {
		return no(imap.ResponseCodeNonExistent, "Mailbox does not exist")
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if s.b.subscribed[s.user] == nil {
		s.b.subscribed[s.user] = map[mbox.Name]bool{}
	}
	s.b.subscribed[s.user][n] = true
	return nil
}

func (s *session) Unsubscribe(name string) error {
	n, err := s.viewer.Internal(mbox.Extern(name))
	if err != nil {
		return no(imap.ResponseCodeNonExistent, "Mailbox does not exist")
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	delete(s.b.subscribed[s.user], n)
	return nil
}

func (s *session) List(w *imapserver.ListWriter, ref string, patterns []string, o *imap.ListOptions) error {
	delim := rune(s.viewer.Separator())
	if len(patterns) == 0 {
		return w.WriteList(&imap.ListData{Attrs: []imap.MailboxAttr{imap.MailboxAttrNoSelect}, Delim: delim})
	}
	for _, n := range s.listed(o.SelectSubscribed) {
		name, ok := s.viewer.External(n)
		if !ok || !slices.ContainsFunc(patterns, func(p string) bool {
			return imapserver.MatchList(string(name), delim, ref, p)
		}) {
			continue
		}
		data := imap.ListData{Delim: delim, Mailbox: string(name)}
		if o.SelectSubscribed || (o.ReturnSubscribed && s.subscribedTo(n)) {
			data.Attrs = append(data.Attrs, imap.MailboxAttrSubscribed)
		}
		if o.ReturnStatus != nil {
			st, err := s.Status(string(name), o.ReturnStatus)
			if err != nil {
				continue // deleted since
			}
			data.Status = st
		}
		if err := w.WriteList(&data); err != nil {
			return err
		}
	}
	return nil
}

// listed returns the names that a LIST considers.
func (s *session) listed(subscribed bool) []mbox.Name {
	if !subscribed {
		return slices.DeleteFunc(s.b.sorted(), func(n mbox.Name) bool { return !s.mayUse(n) })
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	var names []mbox.Name
	for n := range s.b.subscribed[s.user] {
		names = append(names, n)
	}
	slices.SortFunc(names, mbox.OrderDB.Compare)
	return names
}

func (s *session) subscribedTo(n mbox.Name) bool {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return s.b.subscribed[s.user][n]
}

func (s *session) Status(name string, o *imap.StatusOptions) (*imap.StatusData, error) {
	n, err := s.internal(name)
	if err != nil {
		return nil, err
	}
	data, err := s.UserSession.Status(string(n), o)
	if err != nil {
		return nil, err
	}
	data.Mailbox = name
	return data, nil
}

func (s *session) Append(name string, r imap.LiteralReader, o *imap.AppendOptions) (*imap.AppendData, error) {
	n, err := s.internal(name)
	if err != nil || !s.b.has(n) {
		return nil, no(imap.ResponseCodeTryCreate, "Mailbox does not exist")
	}
	return s.UserSession.Append(string(n), r, o)
}

func (s *session) Copy(set imap.NumSet, dest string) (*imap.CopyData, error) {
	n, err := s.destination(dest)
	if err != nil {
		return nil, err
	}
	return s.UserSession.Copy(set, string(n))
}

func (s *session) Move(w *imapserver.MoveWriter, set imap.NumSet, dest string) error {
	n, err := s.destination(dest)
	if err != nil {
		return err
	}
	return s.UserSession.Move(w, set, string(n))
}

func (s *session) destination(name string) (mbox.Name, error) {
	n, err := s.internal(name)
	if err != nil || !s.b.has(n) {
		return "", no(imap.ResponseCodeTryCreate, "Mailbox does not exist")
	}
	return n, nil
}

func (s *session) Namespace() (*imap.NamespaceData, error) {
	delim := rune(s.viewer.Separator())
	other, shared := s.viewer.Prefixes()
	descr := func(prefix string) []imap.NamespaceDescriptor {
		if prefix != "" {
			prefix += string(delim)
		}
		return []imap.NamespaceDescriptor{{Prefix: prefix, Delim: delim}}
	}
	data := &imap.NamespaceData{Other: descr(other), Shared: descr(shared)}
	if personal, ok := s.viewer.Personal(); ok {
		data.Personal = []imap.NamespaceDescriptor{{Prefix: personal, Delim: delim}}
	}
	return data, nil
}
