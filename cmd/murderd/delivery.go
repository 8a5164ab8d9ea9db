package main

import (
	"net"
	"net/netip"

	"murder/internal/auth"
	"murder/internal/config"
	"murder/internal/mbox"
	"murder/lmtp"
	"murder/lmtp/socketmap"
)

// openDelivery starts LMTP and the socketmap, which look up recipients alike.
func (d *daemon) openDelivery(auth *auth.Mechanisms) error {
	c := &d.cfg.LMTP
	resolver, err := lmtp.NewResolver(lmtp.ResolverConfig{
		Directory: d.node,
		Mapping: lmtp.Mapping{
			Namespace: namespace(&d.cfg.Namespace), KeepCase: !c.Downcase, PostUser: c.PostUser, Fuzzy: c.Fuzzy,
			Catchall: mbox.UserID(c.Catchall),
		},
		Self: d.self(), UnknownUsers: mbox.Server(c.UnknownBackend), Metrics: d.scope,
	})
	if err != nil {
		return err
	}
	recipients := socketmap.Handler(resolver, c.DeferUnknown)
	d.recipients.Store(&recipients)
	if err := d.openLMTP(auth, resolver); err != nil {
		return err
	}
	return d.openSocketmap(resolver)
}

// self are the servernames that mean this host; none unless they are configured, because a backend may
// run on the same host under its name.
func (d *daemon) self() []mbox.Server {
	if d.cfg.Backends.Self == "" {
		return nil
	}
	return []mbox.Server{mbox.Server(d.cfg.Backends.Self)}
}

func (d *daemon) openLMTP(auth *auth.Mechanisms, resolver *lmtp.Resolver) error {
	c := &d.cfg.LMTP
	if len(c.Listen)+len(c.ListenTrusted)+len(c.ListenTLS) == 0 {
		return nil
	}
	trusted, err := prefixes(c.TrustedNetworks)
	if err != nil {
		return err
	}
	proxies, err := prefixes(c.Proxies)
	if err != nil {
		return err
	}
	srv, err := lmtp.New(lmtp.Config{
		Hostname: hostname(c.Hostname), Resolver: resolver, Backends: d.backends, Auth: auth, Admins: c.Admins,
		TrustedNetworks: trusted, Proxies: proxies, SoftNoAuth: c.SoftNoAuth, TLS: d.tlsFor(), MaxMessage: c.MaxMessage, Fold: c.Fold,
		CheckAtBackend: c.RcptCheck == "backend", DeferUnknown: c.DeferUnknown, SpoolDir: c.SpoolDir,
		NoTrace: !c.Trace, SyntheticMessageID: c.SyntheticID,
		Limits: lmtp.Limits{
			Connections: c.MaxConnections, PerSource: c.MaxPerAddress, BackendConns: c.MaxBackend, Recipients: c.MaxRecipients, Spool: c.MaxSpool,
			Idle: c.IdleTimeout.Duration, Data: c.DataTimeout.Duration, Handling: c.HandlingTimeout.Duration,
			Envelope: c.EnvelopeTimeout.Duration, Reply: c.OutcomeTimeout.Duration,
		},
		Logger: d.log, Metrics: d.scope,
	})
	if err != nil {
		return err
	}
	serve := func(opt lmtp.ListenOptions) func(net.Listener) error {
		return func(ln net.Listener) error { return srv.Serve(ln, opt) }
	}
	if err := d.start("lmtp", c.Listen, &c.Socket, serve(lmtp.ListenOptions{}), srv.Shutdown); err != nil {
		return err
	}
	if err := d.start("lmtp for MTAs without a login", c.ListenTrusted, &c.Socket, serve(lmtp.ListenOptions{Trusted: true}), nil); err != nil {
		return err
	}
	return d.start("lmtp over TLS", c.ListenTLS, nil, serve(lmtp.ListenOptions{TLS: d.tlsFor()}), nil)
}

func (d *daemon) openSocketmap(resolver *lmtp.Resolver) error {
	c := &d.cfg.Socketmap
	if len(c.Listen)+len(c.Tables) == 0 {
		return nil
	}
	srv, err := socketmap.New(socketmap.Config{
		Resolver: resolver, Backends: d.backends, ProxyTransport: c.ProxyTransport, DeferUnknown: d.cfg.LMTP.DeferUnknown,
		Connections: c.MaxConnections, Logger: d.log, Metrics: d.scope,
	})
	if err != nil {
		return err
	}
	if err := d.start("socketmap", c.Listen, &c.Socket, srv.Serve, srv.Shutdown); err != nil {
		return err
	}
	for name, table := range c.Tables {
		serve := func(ln net.Listener) error { return srv.ServeTable(ln, name) }
		if err := d.start("socketmap table "+name, table.Listen, &c.Socket, serve, nil); err != nil {
			return err
		}
	}
	return nil
}

func prefixes(list []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, s := range list {
		p, err := config.ParsePrefix(s)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}
