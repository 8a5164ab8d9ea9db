package main

import (
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"murder/internal/auth"
	"murder/internal/backend"
	"murder/internal/config"
	"murder/internal/limit"
	"murder/internal/mbox"
	"murder/internal/tlsconf"
	"murder/proxy/imap"
)

// users is where passwords are checked.
type users struct {
	file     *auth.File // nil without a file
	source   auth.Source
	groups   *auth.GroupFile // nil without a file
	failures *limit.Failures
}

// failureAddresses bounds the memory of failed logins.
const failureAddresses = 1 << 16

// openSecrets reads the certificate and the users.
func (d *daemon) openSecrets() error {
	c := d.cfg
	if c.TLS.CertFile != "" {
		least, err := tlsconf.ParseVersion(c.TLS.MinVersion)
		if err != nil {
			return err
		}
		d.cert, err = tlsconf.Load(tlsconf.Config{
			CertFile: c.TLS.CertFile, KeyFile: c.TLS.KeyFile, ClientCAFile: c.TLS.ClientCAFile,
			MinVersion: least, Logger: d.log,
		})
		if err != nil {
			return err
		}
	}
	d.users = &users{failures: limit.NewFailures(c.Users.Failures, c.Users.FailureEvery.Duration, failureAddresses)}
	var sources []auth.Source
	if c.Users.File != "" {
		file, err := auth.OpenFile(c.Users.File, d.log)
		if err != nil {
			return err
		}
		d.users.file = file
		sources = append(sources, file)
	}
	if c.Users.Saslauthd != "" {
		sources = append(sources, &auth.Saslauthd{Path: c.Users.Saslauthd})
	}
	if c.Users.GroupsFile != "" {
		groups, err := auth.OpenGroups(c.Users.GroupsFile, d.log)
		if err != nil {
			return err
		}
		d.users.groups = groups
	}
	if len(sources) > 0 {
		d.users.source = auth.Chain(sources...)
	}
	return nil
}

func (u *users) reload() error {
	var errs []error
	if u.file != nil {
		errs = append(errs, u.file.Reload())
	}
	if u.groups != nil {
		errs = append(errs, u.groups.Reload())
	}
	return errors.Join(errs...)
}

// tlsFor returns the TLS configuration of a protocol, nil without a certificate.
func (d *daemon) tlsFor(alpn ...string) *tls.Config {
	if d.cert == nil {
		return nil
	}
	return d.cert.TLS(alpn...)
}

// mechanisms returns how mail clients log in.
func (d *daemon) mechanisms() *auth.Mechanisms {
	c := &d.cfg.Users
	ns := namespace(&d.cfg.Namespace)
	source := d.users.source
	if c.PassThrough {
		last := &imap.PassThrough{Directory: d.node, Backends: d.backends, Namespace: ns}
		if source == nil {
			source = last
		} else {
			source = auth.Chain(source, last)
		}
	}
	return auth.NewMechanisms(auth.Config{
		Source: source, Mechs: orNil(c.Mechs), AllowPlaintext: c.AllowPlaintext,
		Admins: c.Admins, Proxies: c.Proxies, Pause: pause(c.Pause), Failures: d.users.failures,
		Groups: d.users.groups,
		Canonical: func(name string) (string, error) {
			id, err := ns.Canonical(name)
			return string(id), err
		},
		Logger: d.log, Metrics: d.reg,
	})
}

// mupdateMechanisms returns how MUPDATE clients log in: by the identities of the configuration only.
func (d *daemon) mupdateMechanisms() (*auth.Mechanisms, error) {
	var list []auth.User
	for _, name := range slices.Sorted(maps.Keys(d.cfg.MUPDATE.Identities)) {
		id := d.cfg.MUPDATE.Identities[name]
		password, err := secret(id.PasswordFile, id.Password)
		if err != nil {
			return nil, fmt.Errorf("password of mupdate identity %s: %w", name, err)
		}
		if password == "" { // by certificate alone; SCRAM is offered only where every identity has keys
			password = rand.Text()
		}
		if !strings.HasPrefix(password, "$") && !strings.HasPrefix(password, "{") {
			password = "{PLAIN}" + password
		}
		list = append(list, auth.User{Account: auth.Account{Name: name, Admin: id.Role == "admin", Proxy: d.cfg.MUPDATE.AllowProxy}, Password: password})
	}
	source, err := auth.NewUsers(list...)
	if err != nil {
		return nil, fmt.Errorf("mupdate identities: %w", err)
	}
	return auth.NewMechanisms(auth.Config{
		Source: source, Mechs: orNil(upper(d.cfg.MUPDATE.Mechs)), AllowPlaintext: d.cfg.MUPDATE.AllowPlaintext, Pause: pause(d.cfg.Users.Pause),
		// Backends, frontends and mail clients may share an address, or a load balancer: a wrong password of one
		// must not shut out the others.
		Failures: d.users.failures, FailuresByName: true, Logger: d.log, Metrics: d.reg,
	}), nil
}

// pause translates: 0 in the file means none, which the package calls negative.
func pause(d config.Duration) time.Duration {
	if d.Duration == 0 {
		return -1
	}
	return d.Duration
}

// secret reads a secret from its file, or takes the one that a trial has in the configuration.
func secret(file, plain string) (string, error) {
	if file == "" {
		return plain, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	text, _, _ := strings.Cut(string(data), "\n")
	if text = strings.TrimSuffix(text, "\r"); text == "" {
		return "", fmt.Errorf("the first line of %s is empty", file)
	}
	return text, nil
}

func upper(list []string) []string {
	var words []string
	for _, w := range list {
		words = append(words, strings.ToUpper(w))
	}
	return words
}

func orNil[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}

func namespace(c *config.Namespace) mbox.Namespace {
	return mbox.Namespace{
		Alt: c.Alt, Dot: !c.UnixHierarchy, UserPrefix: c.UserPrefix, SharedPrefix: c.SharedPrefix,
		AltPrefix: c.AltPrefix, Virtual: c.VirtDomains, DefaultDomain: c.DefaultDomain,
		CrossDomains: c.CrossDomains, Deleted: c.DeletedPrefix,
	}
}

func servers(names []string) []mbox.Server {
	var list []mbox.Server
	for _, n := range names {
		list = append(list, mbox.Server(n))
	}
	return list
}

// backendSettings translates how backends are reached; each server takes over from the default what
// it does not say itself.
func backendSettings(c *config.Backends) (def backend.Settings, known map[mbox.Server]backend.Settings, err error) {
	if def, err = oneBackend(&c.Default); err != nil {
		return def, nil, fmt.Errorf("backends.default: %w", err)
	}
	known = map[mbox.Server]backend.Settings{}
	for name, b := range c.Servers {
		whole := c.Default
		// A port, a host and a name for certificates belong to one server.
		whole.Host, whole.TLSName, whole.Public = b.Host, b.TLSName, b.Public
		inherit(&whole, &b)
		set, err := oneBackend(&whole)
		if err != nil {
			return def, nil, fmt.Errorf("backends.servers.%s: %w", name, err)
		}
		known[mbox.Server(name)] = set
	}
	return def, known, nil
}

// inherit overwrites in whole what b says.
func inherit(whole, b *config.Backend) {
	if b.PasswordFile != "" || b.Password != "" {
		whole.PasswordFile, whole.Password = b.PasswordFile, b.Password
	}
	if b.CertFile != "" {
		whole.CertFile, whole.KeyFile = b.CertFile, b.KeyFile
	}
	for _, s := range []struct{ to, from *string }{
		{&whole.Bind, &b.Bind}, {&whole.TLS, &b.TLS}, {&whole.Verify, &b.Verify}, {&whole.CAFile, &b.CAFile}, {&whole.Authname, &b.Authname},
	} {
		if *s.from != "" {
			*s.to = *s.from
		}
	}
	for _, n := range []struct{ to, from *int }{
		{&whole.IMAP, &b.IMAP}, {&whole.LMTP, &b.LMTP}, {&whole.POP3, &b.POP3}, {&whole.Sieve, &b.Sieve}, {&whole.MaxConns, &b.MaxConns},
	} {
		if *n.from != 0 {
			*n.to = *n.from
		}
	}
	if len(b.Pins) > 0 {
		whole.Pins = b.Pins
	}
	if len(b.Mechs) > 0 {
		whole.Mechs = b.Mechs
	}
	whole.AllowPlaintext = whole.AllowPlaintext || b.AllowPlaintext
}

func oneBackend(b *config.Backend) (set backend.Settings, err error) {
	set = backend.Settings{
		Host:  b.Host,
		Ports: map[backend.Service]int{backend.IMAP: b.IMAP, backend.LMTP: b.LMTP, backend.POP3: b.POP3, backend.Sieve: b.Sieve},
		TLS:   map[string]backend.TLSPolicy{"starttls": backend.StartTLS, "implicit": backend.Implicit, "none": backend.NoTLS}[b.TLS],
		Verify: map[string]backend.Verification{"ca": backend.VerifyCA, "name": backend.VerifyName,
			"pin": backend.VerifyPin, "none": backend.VerifyNone}[b.Verify],
		TLSName: b.TLSName, Pins: b.Pins, Authname: b.Authname, Mechs: orNil(b.Mechs),
		AllowPlaintext: b.AllowPlaintext, MaxConns: b.MaxConns, Drain: b.Drain, Public: b.Public,
	}
	if b.Bind != "" {
		if set.Bind, err = netip.ParseAddr(b.Bind); err != nil {
			return set, err
		}
	}
	if b.CAFile != "" {
		if set.RootCAs, err = tlsconf.LoadCAs(b.CAFile); err != nil {
			return set, err
		}
	}
	if b.CertFile != "" {
		set.Certificate = clientCertificate(b.CertFile, b.KeyFile)
		if _, err = set.Certificate(); err != nil {
			return set, err
		}
	}
	set.Password, err = secret(b.PasswordFile, b.Password)
	return set, err
}

// clientCertificate reads our certificate anew at most once a minute, so that a renewed one is used.
func clientCertificate(certFile, keyFile string) func() (*tls.Certificate, error) {
	var mu sync.Mutex
	var cert tls.Certificate
	var read time.Time
	return func() (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(read) > time.Minute {
			fresh, err := tls.LoadX509KeyPair(certFile, keyFile)
			switch {
			case err == nil:
				cert, read = fresh, time.Now()
			case read.IsZero():
				return nil, fmt.Errorf("loading certificate %s with key %s: %w", certFile, keyFile, err)
			}
		}
		current := cert
		return &current, nil
	}
}
