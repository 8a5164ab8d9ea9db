package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"murder/internal/auth"
	"murder/internal/backend"
	"murder/internal/config"
	listening "murder/internal/listen"
	"murder/internal/mbox"
	"murder/internal/obs"
	"murder/mupdate"
	"murder/proxy/imap"
	"murder/proxy/login"
	"murder/proxy/pop3"
	"murder/proxy/sieve"
)

// service is one protocol that is being served.
type service struct {
	name string
	stop func(context.Context) error
}

// openServices starts every protocol that the configuration names an address for.
func (d *daemon) openServices() error {
	d.scope = obs.NewScope(d.reg)
	if err := d.openMUPDATE(); err != nil {
		return err
	}
	if !d.cfg.Serves() {
		return nil
	}
	def, servers, err := backendSettings(&d.cfg.Backends)
	if err != nil {
		return err
	}
	if d.backends == nil { // what is known of them outlives a drain
		d.backends = backend.New(backend.Config{Default: def, Servers: servers, Own: d.own.listens, Logger: d.log, Metrics: d.reg})
		d.operations.addBackends(d.backends)
	}
	mechanisms := d.mechanisms()
	for _, open := range []func(*auth.Mechanisms) error{d.openIMAP, d.openPOP3, d.openSieve, d.openDelivery} {
		if err := open(mechanisms); err != nil {
			return err
		}
	}
	return nil
}

func (d *daemon) serviceNames() []string {
	var names []string
	for _, s := range d.services {
		names = append(names, s.name)
	}
	return names
}

func (d *daemon) openMUPDATE() error {
	c := &d.cfg.MUPDATE
	if len(c.Listen)+len(c.ListenTLS) == 0 {
		return nil
	}
	mechanisms, err := d.mupdateMechanisms()
	if err != nil {
		return err
	}
	upstream := c.Upstream
	if d.cfg.Votes() {
		upstream = ""
	}
	identities, err := identities(c.Identities)
	if err != nil {
		return err
	}
	peers, err := peerRules(c.Peers)
	if err != nil {
		return err
	}
	srv := mupdate.New(mupdate.Config{
		Directory: d.node, Auth: mechanisms, NodeID: d.cfg.Node.ID, ServerName: hostname(c.ServerName), Version: version,
		Upstream: upstream, Identities: identities, Peers: peers, AllowProxy: c.AllowProxy, TLS: d.tlsFor(),
		ReadOnly: c.ReadOnly, StrictRFC: c.StrictRFC, DenyUnknownDelete: c.DenyUnknownDelete,
		DenyUnboundDelete: c.DenyUnboundDelete, NoopStrict: c.NoopStrict, CompleteTransfer: c.CompleteTransfer, DefaultDomain: d.cfg.Namespace.DefaultDomain,
		Replay: map[string]mupdate.ReplayMode{"suspect": mupdate.ReplaySuspect, "all": mupdate.ReplayAll,
			"off": mupdate.ReplayOff}[c.Replay],
		GuardFile:     filepath.Join(d.cfg.Node.DataDir, "mupdate-shown"),
		ConflictBrake: c.ConflictBrake, MaxConnections: c.MaxConnections, LoginTimeout: c.LoginTimeout.Duration,
		IdleTimeout: c.IdleTimeout.Duration, CommandTimeout: c.CommandTimeout.Duration,
		Logger: d.log, Metrics: d.scope,
	})
	d.operations.addMUPDATE(srv)
	proxies, err := prefixes(c.Proxies)
	if err != nil {
		return err
	}
	serve := func(ln net.Listener, implicit *tls.Config) error {
		ln = listening.Proxied(ln, proxies)
		if implicit != nil {
			ln = tls.NewListener(ln, implicit)
		}
		return srv.Serve(ln)
	}
	return d.startBoth("mupdate", c.Listen, c.ListenTLS, d.tlsFor(), serve, srv.Shutdown)
}

func identities(list map[string]config.Identity) (map[string]mupdate.Identity, error) {
	known := map[string]mupdate.Identity{}
	for name, id := range list {
		order, err := mbox.ParseOrder(id.Order)
		if err != nil {
			return nil, fmt.Errorf("mupdate identity %s: %w", name, err)
		}
		known[name] = mupdate.Identity{
			Role:    map[string]mupdate.Role{"": mupdate.Reader, "reader": mupdate.Reader, "backend": mupdate.Backend, "admin": mupdate.Admin}[id.Role],
			Servers: servers(id.Servers), Takeover: id.Takeover, Permissive: id.Permissive, Unified: id.Unified, Order: order,
		}
	}
	return known, nil
}

// peerRules puts longer prefixes first, because the server takes the first that fits.
func peerRules(list map[string]config.PeerSettings) ([]mupdate.PeerRule, error) {
	var rules []mupdate.PeerRule
	for text, p := range list {
		prefix, err := config.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("mupdate peer %s: %w", text, err)
		}
		order, err := mbox.ParseOrder(p.Order)
		if err != nil {
			return nil, fmt.Errorf("mupdate peer %s: %w", text, err)
		}
		rules = append(rules, mupdate.PeerRule{Prefix: prefix, Servers: servers(p.Servers), Unified: p.Unified, Order: order})
	}
	slices.SortFunc(rules, func(a, b mupdate.PeerRule) int { return b.Prefix.Bits() - a.Prefix.Bits() })
	return rules, nil
}

func (d *daemon) openIMAP(auth *auth.Mechanisms) error {
	c := &d.cfg.IMAP
	if len(c.Listen)+len(c.ListenTLS) == 0 {
		return nil
	}
	cert := d.tlsFor("imap")
	proxies, err := prefixes(c.Proxies)
	if err != nil {
		return err
	}
	srv, err := imap.New(imap.Config{
		Hostname: hostname(c.Hostname), Version: version, Directory: d.node, Backends: d.backends, Auth: auth,
		Namespace: namespace(&d.cfg.Namespace), TLS: cert, Proxies: proxies,
		Limits: imap.Limits{Connections: c.MaxConnections, PreAuth: c.LoginTimeout.Duration, Idle: c.IdleTimeout.Duration,
			PerAddress: c.MaxPerAddress, PerUser: c.MaxPerUser, Append: c.MaxMessage},
		Placement: d.placement(), Autocreate: c.Autocreate,
		Suppress: c.Suppress, HideOrigin: c.HideOrigin, ProbeInterval: c.ProbeInterval.Duration, SpecialUse: c.SpecialUse,
		Logger: d.log, Metrics: d.scope,
	})
	if err != nil {
		return err
	}
	d.operations.addSessions(imapSessions(srv))
	return d.startBoth("imap", c.Listen, c.ListenTLS, cert, srv.Serve, srv.Shutdown)
}

// placement says where new users go.
func (d *daemon) placement() imap.Placement {
	c := &d.cfg.IMAP
	p := imap.Placement{Policy: imap.Policy(c.Placement), Servers: servers(c.PlaceOn), Weights: map[mbox.Server]int{}, FullAt: c.FullAt}
	for _, name := range slices.Sorted(maps.Keys(c.Place)) {
		rule := imap.Rule{Domain: c.Place[name].Domain, Servers: servers(c.Place[name].On)}
		if match := c.Place[name].Match; match != "" {
			rule.Match = regexp.MustCompile(match) // it has been tried when the file was read
		}
		p.Rules = append(p.Rules, rule)
	}
	for name, b := range d.cfg.Backends.Servers {
		if b.Weight != 0 {
			p.Weights[mbox.Server(name)] = b.Weight
		}
	}
	p.Accept = func(server mbox.Server) bool { return !d.backends.Settings(server).Drain }
	return p
}

// loginConfig is what POP3 and ManageSieve share.
func (d *daemon) loginConfig(auth *auth.Mechanisms, limits login.Limits, cert *tls.Config, proxies []string) (login.Config, error) {
	trusted, err := prefixes(proxies)
	return login.Config{
		Hostname: hostname(""), Version: version, Directory: d.node, Backends: d.backends, Auth: auth,
		Namespace: namespace(&d.cfg.Namespace), Self: mbox.Server(d.cfg.Backends.Self), TLS: cert, Proxies: trusted, Limits: limits,
		Logger: d.log, Metrics: d.scope,
	}, err
}

func (d *daemon) openPOP3(auth *auth.Mechanisms) error {
	c := &d.cfg.POP3
	if len(c.Listen)+len(c.ListenTLS) == 0 {
		return nil
	}
	cert := d.tlsFor("pop3")
	limits := login.Limits{Connections: c.MaxConnections, PerAddress: c.MaxPerAddress, PerUser: c.MaxPerUser, Idle: c.IdleTimeout.Duration}
	base, err := d.loginConfig(auth, limits, cert, c.Proxies)
	if err != nil {
		return err
	}
	srv, err := pop3.New(pop3.Config{Config: base, Subfolders: c.Subfolders})
	if err != nil {
		return err
	}
	d.operations.addSessions(loginSessions("pop3", srv))
	return d.startBoth("pop3", c.Listen, c.ListenTLS, cert, srv.Serve, srv.Shutdown)
}

func (d *daemon) openSieve(auth *auth.Mechanisms) error {
	c := &d.cfg.Sieve
	if len(c.Listen) == 0 {
		return nil
	}
	cert := d.tlsFor("managesieve")
	limits := login.Limits{Connections: c.MaxConnections, PerAddress: c.MaxPerAddress, PerUser: c.MaxPerUser, Idle: c.IdleTimeout.Duration}
	base, err := d.loginConfig(auth, limits, cert, c.Proxies)
	if err != nil {
		return err
	}
	srv, err := sieve.New(sieve.Config{Config: base, Referrals: c.Referrals})
	if err != nil {
		return err
	}
	d.operations.addSessions(loginSessions("sieve", srv))
	return d.startBoth("sieve", c.Listen, nil, cert, srv.Serve, srv.Shutdown)
}

// startBoth serves a protocol in clear (with STARTTLS) and over TLS.
func (d *daemon) startBoth(name string, clear, secure []string, cert *tls.Config, serve func(net.Listener, *tls.Config) error, stop func(context.Context) error) error {
	if err := d.start(name, clear, nil, func(ln net.Listener) error { return serve(ln, nil) }, stop); err != nil {
		return err
	}
	return d.start(name+" over TLS", secure, nil, func(ln net.Listener) error { return serve(ln, cert) }, nil)
}

// start serves a protocol on its addresses. All are bound, or none. sockets is needed if there may be any.
func (d *daemon) start(name string, addrs []string, sockets *config.Socket, serve func(net.Listener) error, stop func(context.Context) error) error {
	if stop != nil {
		d.services = append(d.services, service{name, stop})
	}
	var listeners []net.Listener
	for _, addr := range addrs {
		if at, err := netip.ParseAddrPort(addr); err == nil {
			d.own.add(net.TCPAddrFromAddrPort(at)) // before anybody can connect
		}
		ln, err := d.listen(addr, sockets)
		if err != nil {
			for _, ln := range listeners {
				ln.Close()
			}
			return fmt.Errorf("listening for %s: %w%s", name, err, listenHint(addr, err))
		}
		listeners = append(listeners, ln)
	}
	for _, ln := range listeners {
		d.own.add(ln.Addr())
		go func() {
			if err := serve(ln); err != nil && !errors.Is(err, net.ErrClosed) {
				d.fail(fmt.Errorf("serving %s on %s: %w", name, ln.Addr(), err))
			}
		}()
	}
	return nil
}

// listenHint says what to do about an address that cannot be had.
func listenHint(addr string, err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "; another program has it: see \"ss -lntp\", or choose another address"
	case errors.Is(err, syscall.EACCES) && !strings.HasPrefix(addr, "/"):
		return "; ports below 1024 need CAP_NET_BIND_SERVICE, which the systemd unit grants"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "; this machine does not have that address"
	}
	return ""
}

// hostname is a name for greetings: what the operator says, else this host's.
func hostname(name string) string {
	if name == "" {
		name, _ = os.Hostname()
	}
	return name
}
