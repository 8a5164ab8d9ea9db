// Package dev runs a whole cluster on one machine: `murderd dev`. Every node is a process of its own
// with its own configuration and data, so that any of them can be killed and started again by hand.
//
// A node ends with the process that started it, because that holds the other end of its standard
// input. A node that ends by itself ends nothing else.
package dev

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"murder/internal/config"
)

// Options are the flags of `murderd dev`.
type Options struct {
	Program string // murderd
	Version string
	Dir     string
	Out     io.Writer

	Coordinators, Frontends, DemoBackends int

	Net             string // first three parts of every address
	Backends        []Backend
	Admins, Users   []Account
	Proxy           Account
	MUPDATEBackends []Bound
	MUPDATEReaders  []Account
	Set             []string

	Tour, Once bool
}

// Account is a name with its password.
type Account struct{ Name, Password string }

// ParseAccount reads NAME:PASSWORD.
func ParseAccount(s string) (Account, error) {
	name, password, ok := strings.Cut(s, ":")
	if !ok || name == "" || password == "" {
		return Account{}, fmt.Errorf("%q: want NAME:PASSWORD", s)
	}
	return Account{name, password}, nil
}

// Bound is an account for some servers.
type Bound struct {
	Account
	Servers []string
}

// ParseBound reads NAME:PASSWORD=SERVER[,SERVER]...
func ParseBound(s string) (Bound, error) {
	account, list, ok := strings.Cut(s, "=")
	a, err := ParseAccount(account)
	if err != nil || !ok || list == "" {
		return Bound{}, fmt.Errorf("%q: want NAME:PASSWORD=SERVER[,SERVER]", s)
	}
	return Bound{a, strings.Split(list, ",")}, nil
}

// Backend is a mail server that runs already, or a demo one.
type Backend struct {
	Name, Host              string
	IMAP, LMTP, POP3, Sieve int
}

// ParseBackend reads NAME=HOST[,imap=PORT][,lmtp=PORT][,pop3=PORT][,sieve=PORT].
func ParseBackend(s string) (Backend, error) {
	bad := func(why string) (Backend, error) {
		return Backend{}, fmt.Errorf("%q: %s; want NAME=HOST[,imap=PORT][,lmtp=PORT][,pop3=PORT][,sieve=PORT]", s, why)
	}
	name, rest, ok := strings.Cut(s, "=")
	if !ok || name == "" {
		return bad("no NAME=")
	}
	parts := strings.Split(rest, ",")
	b := Backend{Name: name, Host: parts[0], IMAP: 143, LMTP: 2003, POP3: 110, Sieve: 4190}
	if b.Host == "" {
		return bad("no host")
	}
	ports := map[string]*int{"imap": &b.IMAP, "lmtp": &b.LMTP, "pop3": &b.POP3, "sieve": &b.Sieve}
	for _, part := range parts[1:] {
		service, port, _ := strings.Cut(part, "=")
		n, err := strconv.Atoi(port)
		switch {
		case ports[service] == nil:
			return bad("unknown service " + strconv.Quote(service))
		case err != nil || n < 1 || n > 65535:
			return bad("no port: " + strconv.Quote(port))
		}
		*ports[service] = n
	}
	return b, nil
}

const maxNodes = 20 // addresses .1 to .20, .21 to .40, .41 to .60

func (o *Options) check() error {
	switch {
	case o.Dir == "":
		return errors.New("--dir is required: a directory for configurations, data and logs")
	case o.Coordinators < 1 || o.Coordinators > maxNodes:
		return fmt.Errorf("--coordinators %d: want 1 to %d", o.Coordinators, maxNodes)
	case o.Frontends < 0 || o.Frontends > maxNodes:
		return fmt.Errorf("--frontends %d: want 0 to %d", o.Frontends, maxNodes)
	case o.DemoBackends < 0 || o.DemoBackends > maxNodes:
		return fmt.Errorf("--demo-backends %d: want 0 to %d", o.DemoBackends, maxNodes)
	case o.Once && !o.Tour:
		o.Tour = true
	}
	if !o.Tour {
		return nil
	}
	switch {
	case o.Coordinators < 3:
		return errors.New("--tour kills a coordinator: it needs three of them")
	case o.Frontends < 1:
		return errors.New("--tour reads mail through a frontend: it needs one")
	case o.DemoBackends+len(o.Backends) < 2:
		return errors.New("--tour makes mailboxes on two backends: it needs two")
	case len(o.Users) < 3:
		return errors.New("--tour needs three users")
	}
	return nil
}

// apply sets the keys of --set that concern a node: KEY=VALUE for all, NODE/KEY=VALUE for one.
func (o *Options) apply(id string, c *config.Config) error {
	for _, s := range o.Set {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("--set %s: want KEY=VALUE or NODE/KEY=VALUE", s)
		}
		if node, rest, one := strings.Cut(key, "/"); one && !strings.Contains(node, ".") { // keys may have a slash, too
			if node != id {
				continue
			}
			key = rest
		}
		if err := c.Set(key, value); err != nil {
			return err
		}
	}
	return nil
}
