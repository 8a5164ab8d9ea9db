// Package demo is a small mail server that stands in for a Cyrus backend in `murderd dev`: IMAP with
// proxy authorization by go-imap's in-memory server, LMTP by go-smtp, and every mailbox registered in
// the map before the client hears OK, as Cyrus does.
//
// It keeps everything in memory and has one right: a user may do anything below the own INBOX, an
// administrator anything anywhere. Known gaps: no ACL, quota or annotation commands, no TLS.
package demo

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-imap/v2/imapserver/imapmemserver"
	"github.com/emersion/go-smtp"

	"murder/internal/mbox"
)

// Registrar announces mailboxes to the map. Its calls are made for one change at a time.
type Registrar interface {
	// Create reserves and activates a name.
	Create(ctx context.Context, name mbox.Name, loc mbox.Location, acl mbox.ACL) error
	Delete(ctx context.Context, name mbox.Name) error
}

// registerTimeout bounds how long a client waits for the map.
const registerTimeout = 15 * time.Second

// Config describes a backend.
type Config struct {
	Name      mbox.Server // servername: the server part of the locations it registers
	Namespace mbox.Namespace
	Registrar Registrar
	// Admins may do anything; each may also act for a user (SASL authorization identity).
	Admins map[string]string
	// Users may log in themselves.
	Users  map[string]string
	Logger *slog.Logger
}

// Backend is a running server.
type Backend struct {
	cfg  Config
	imap *imapserver.Server
	lmtp *smtp.Server

	// mu orders changes of the set of mailboxes. It is held while the map is told, so that the
	// map never sees two changes in the wrong order.
	mu sync.Mutex
	// store holds all mailboxes of all users, under their internal names.
	store      *imapmemserver.User
	names      map[mbox.Name]bool
	subscribed map[mbox.UserID]map[mbox.Name]bool
}

// New returns a backend without mailboxes.
func New(cfg Config) *Backend {
	b := &Backend{
		cfg:        cfg,
		store:      imapmemserver.NewUser(string(cfg.Name), ""),
		names:      map[mbox.Name]bool{},
		subscribed: map[mbox.UserID]map[mbox.Name]bool{},
	}
	quiet := slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug)
	b.imap = imapserver.New(&imapserver.Options{
		NewSession: func(*imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			return &session{b: b}, nil, nil
		},
		Caps: imap.CapSet{
			imap.CapIMAP4rev1: {}, imap.CapLiteralPlus: {}, imap.CapSASLIR: {}, imap.CapNamespace: {},
			imap.CapUIDPlus: {}, imap.CapMove: {}, imap.CapUnselect: {}, imap.CapIdle: {},
			imap.CapESearch: {}, imap.CapListExtended: {}, imap.CapListStatus: {},
		},
		InsecureAuth: true,
		Logger:       quiet,
	})
	b.lmtp = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		return &delivery{b: b}, nil
	}))
	b.lmtp.LMTP = true
	b.lmtp.Domain = string(cfg.Name)
	b.lmtp.AllowInsecureAuth = true
	b.lmtp.MaxMessageBytes = 64 << 20
	b.lmtp.ErrorLog = quiet
	return b
}

// ServeIMAP serves until the listener is closed by Close.
func (b *Backend) ServeIMAP(ln net.Listener) error { return b.imap.Serve(ln) }

// ServeLMTP serves until the listener is closed by Close.
func (b *Backend) ServeLMTP(ln net.Listener) error { return b.lmtp.Serve(bareListener{ln}) }

// Close ends all sessions.
func (b *Backend) Close() error { return errors.Join(b.imap.Close(), b.lmtp.Close()) }

// admin reports whether the password is that of an administrator of this name.
func (b *Backend) admin(name, password string) bool {
	want, ok := b.cfg.Admins[name]
	return ok && subtle.ConstantTimeCompare([]byte(want), []byte(password)) == 1
}

func (b *Backend) user(name, password string) bool {
	want, ok := b.cfg.Users[name]
	return ok && subtle.ConstantTimeCompare([]byte(want), []byte(password)) == 1
}

func (b *Backend) has(n mbox.Name) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.names[n]
}

// sorted returns the names in the map's order.
func (b *Backend) sorted() []mbox.Name {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.SortedFunc(maps.Keys(b.names), mbox.OrderDB.Compare)
}

// create makes a mailbox and registers it; if the map refuses, nothing remains.
func (b *Backend) create(n mbox.Name) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.names[n] {
		return no(imap.ResponseCodeAlreadyExists, "Mailbox already exists")
	}
	return b.createLocked(n)
}

func (b *Backend) createLocked(n mbox.Name) error {
	if err := b.store.Create(string(n), nil); err != nil {
		return err
	}
	if err := b.register(n); err != nil {
		return errors.Join(unavailable(err), b.store.Delete(string(n)))
	}
	b.names[n] = true
	return nil
}

func (b *Backend) register(n mbox.Name) error {
	acl := mbox.ACL("anyone\tlrsp\t")
	if owner, ok := b.cfg.Namespace.Owner(n); ok {
		acl = mbox.ACL(string(owner) + "\tlrswipkxtecda\t")
	}
	ctx, cancel := context.WithTimeout(context.Background(), registerTimeout)
	defer cancel()
	return b.cfg.Registrar.Create(ctx, n, mbox.At(b.cfg.Name, "default"), acl)
}

func (b *Backend) unregister(n mbox.Name) error {
	ctx, cancel := context.WithTimeout(context.Background(), registerTimeout)
	defer cancel()
	return b.cfg.Registrar.Delete(ctx, n)
}

// remove deletes a mailbox: first in the map, so that nobody finds a name without a mailbox.
func (b *Backend) remove(n mbox.Name) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.names[n] {
		return no(imap.ResponseCodeNonExistent, "Mailbox does not exist")
	}
	if err := b.unregister(n); err != nil {
		return unavailable(err)
	}
	delete(b.names, n)
	return b.store.Delete(string(n))
}

// rename moves a mailbox and everything below it. Like Cyrus it tells the map name by name.
func (b *Backend) rename(from, to mbox.Name) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.names[from]:
		return no(imap.ResponseCodeNonExistent, "Mailbox does not exist")
	case b.names[to]:
		return no(imap.ResponseCodeAlreadyExists, "Mailbox already exists")
	}
	for _, old := range slices.SortedFunc(maps.Keys(b.names), mbox.OrderDB.Compare) {
		rest, below := cutTree(old, from)
		if !below {
			continue
		}
		renamed := to + rest
		if err := b.unregister(old); err != nil {
			return unavailable(err)
		}
		if err := b.register(renamed); err != nil {
			return errors.Join(unavailable(err), b.register(old))
		}
		if err := b.store.Rename(string(old), string(renamed), nil); err != nil {
			return err
		}
		delete(b.names, old)
		b.names[renamed] = true
	}
	return nil
}

// cutTree reports whether n is root or lies below it, and what follows root.
func cutTree(n, root mbox.Name) (mbox.Name, bool) {
	if len(n) < len(root) || n[:len(root)] != root {
		return "", false
	}
	rest := n[len(root):]
	return rest, rest == "" || rest[0] == '.'
}

func no(code imap.ResponseCode, text string) error {
	return &imap.Error{Type: imap.StatusResponseTypeNo, Code: code, Text: text}
}

func unavailable(err error) error {
	return no(imap.ResponseCodeUnavailable, fmt.Sprintf("The mailbox map refused: %v", err))
}
