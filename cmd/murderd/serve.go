package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"murder/cluster"
	"murder/internal/backend"
	"murder/internal/config"
	"murder/internal/lifecycle"
	"murder/internal/obs"
	"murder/internal/tlsconf"
)

func newServe() *cobra.Command {
	cmd := &cobra.Command{Use: "serve", Short: "Run one node of a cluster", Args: cobra.NoArgs}
	file := configFlag(cmd)
	withParent := cmd.Flags().Bool("with-parent", false, "end when standard input closes")
	cmd.Flags().MarkHidden("with-parent")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if *withParent {
			var orphaned context.CancelFunc
			ctx, orphaned = context.WithCancel(ctx)
			go func() {
				io.Copy(io.Discard, os.Stdin)
				orphaned()
			}()
		}
		return serve(ctx, *file)
	}
	return cmd
}

// daemon is everything that runs in one node.
type daemon struct {
	file  string
	cfg   *config.Config
	log   *slog.Logger
	level *slog.LevelVar
	reg   *prometheus.Registry

	cert     *tlsconf.Server // nil without a certificate
	users    *users
	node     *cluster.Node
	admin    []*http.Server
	backends *backend.Set
	// recipients answers look-ups of addresses once delivery is open.
	recipients atomic.Pointer[http.Handler]

	operations operations
	backups    *backups

	services []service
	scope    *obs.Scope // metrics of the services
	own      ownAddresses
	serving  atomic.Bool
	leaving  atomic.Bool // the last clients finish what they are doing
	failed   chan error  // a listener that broke
	ready    sync.Once
	turns    turns
}

// serve is the life of a node, in the order in which its parts start.
func serve(ctx context.Context, file string) error {
	cfg, err := load(file)
	if err != nil {
		return err
	}
	log, level, err := obs.NewLogger(os.Stderr, cfg.Log.Level, cfg.Log.Format)
	if err != nil {
		return err
	}
	d := &daemon{file: file, cfg: cfg, log: log, level: level, reg: obs.NewRegistry(version), failed: make(chan error, 1)}
	log.Info("starting", "version", version, "node", cfg.Node.ID, "role", cfg.Node.Role)
	if limit := lifecycle.LimitMemory(); limit > 0 {
		log.Info("memory is limited by the control group", "limit_mib", limit>>20)
	}
	go lifecycle.GiveBack(ctx)

	// What may be wrong on this machine is found before anything is joined or bound.
	if err := d.openSecrets(); err != nil {
		return err
	}

	// The node takes up its membership. Without one it waits for an operator, who comes through the
	// admin API.
	if err := d.openNode(); err != nil {
		return err
	}
	defer d.shutdown()
	if err := d.openAdmin(); err != nil {
		return err
	}
	watchdog, stopWatchdog := context.WithCancel(context.Background())
	defer stopWatchdog()
	go lifecycle.RunWatchdog(watchdog, func() bool { return d.live().OK })

	if !d.node.Synced() {
		d.tellReady("waiting to join a cluster, or for a complete map")
		log.Info("waiting for a complete map", "hint", "murderctl cluster init, or murderctl cluster join TOKEN")
	}
	if err := d.awaitMap(ctx); err != nil {
		return nil // told to stop before there was anything to serve
	}

	// From here on answers are true, so whoever asks may come.
	if err := d.openServices(); err != nil {
		return err
	}
	d.serving.Store(true)
	following, unfollow := context.WithCancel(ctx)
	followed := make(chan struct{})
	go func() { d.followDrain(following); close(followed) }()
	defer func() { unfollow(); <-followed }()
	go d.backups.run(ctx)
	d.tellReady("serving")
	log.Info("ready", "services", d.serviceNames())

	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	alive := time.NewTicker(turnInterval)
	defer alive.Stop()
	defer d.turns.rest()
	for {
		d.turns.turn(time.Now())
		select {
		case <-alive.C:
		case <-ctx.Done():
			log.Info("stopping")
			return nil
		case err := <-d.failed:
			return err
		case <-hup:
			d.reload()
		}
	}
}

// openNode opens the cluster port.
func (d *daemon) openNode() error {
	c := d.cfg.Cluster
	bootstrap, err := bootstrapOf(&c)
	if err != nil {
		return err
	}
	d.backups = newBackups(d.cfg.Backup, func(ctx context.Context, w io.Writer) error { return d.node.Backup(ctx, w) }, d.log, d.reg)
	node, err := cluster.Open(cluster.Config{
		NodeID:             d.cfg.Node.ID,
		DataDir:            d.cfg.Node.DataDir,
		Role:               cluster.Role(d.cfg.Node.Role),
		Listen:             c.Listen,
		CleanupDeadServers: c.CleanupDead,
		Advertise:          d.advertise(c.Listen, c.Advertise),
		GossipListen:       d.cfg.Gossip.Listen,
		Services:           d.advertised(),
		Timing:             c.Timing,
		Voters:             c.Voters,
		PromoteAfter:       c.PromoteAfter.Duration,
		BinaryVersion:      version,
		AutoFinalize:       c.AutoFinalize,
		Bootstrap:          bootstrap,
		SnapshotInterval:   c.SnapshotInterval.Duration,
		SnapshotThreshold:  c.SnapshotThreshold,
		TrailingLogs:       c.TrailingLogs,
		Findings:           d.findings,
		Answers:            d.answers(),
		Serving:            func() bool { return d.serving.Load() || d.leaving.Load() },
		Logger:             d.log,
		Metrics:            d.reg,
	})
	if err != nil {
		return fmt.Errorf("opening the node: %w", err)
	}
	d.node = node
	return nil
}

// bootstrapOf reads the secret of nodes that make their cluster by themselves.
func bootstrapOf(c *config.Cluster) (cluster.Bootstrap, error) {
	if c.BootstrapExpect == 0 {
		return cluster.Bootstrap{}, nil
	}
	secret, err := os.ReadFile(c.BootstrapSecret)
	if err != nil {
		return cluster.Bootstrap{}, fmt.Errorf("reading the bootstrap secret: %w", err)
	}
	return cluster.Bootstrap{Expect: c.BootstrapExpect, Peers: c.BootstrapPeers, Secret: bytes.TrimSpace(secret)}, nil
}

// advertise is the address under which others reach a listener: what the operator says, else the
// address listened on, else this host's name.
func (d *daemon) advertise(listen, advertise string) string {
	if advertise != "" {
		return advertise
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			return ""
		}
	}
	return net.JoinHostPort(host, port)
}

// advertised are the services that other nodes and operators may want to find.
func (d *daemon) advertised() map[string]string {
	services := map[string]string{}
	for name, addrs := range map[string][]string{
		"mupdate": d.cfg.MUPDATE.Listen, "imap": d.cfg.IMAP.Listen, "imaps": d.cfg.IMAP.ListenTLS,
		"pop3": d.cfg.POP3.Listen, "sieve": d.cfg.Sieve.Listen, "lmtp": d.cfg.LMTP.Listen,
		"socketmap": d.cfg.Socketmap.Listen, "http": {d.cfg.Admin.Listen},
	} {
		for _, a := range addrs {
			if a != "" && !strings.HasPrefix(a, "/") {
				services[name] = d.advertise(a, "")
				break
			}
		}
	}
	return services
}

// awaitMap waits until this node has a complete copy and, for a while, until that is known to be
// current. It fails only when ctx ends.
func (d *daemon) awaitMap(ctx context.Context) error {
	const pause = 20 * time.Millisecond
	for !d.node.Synced() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
	limited, cancel := context.WithTimeout(ctx, d.cfg.Cluster.ReadyTimeout.Duration)
	defer cancel()
	for {
		_, err := d.node.Barrier(limited)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case limited.Err() != nil:
			d.log.Warn("serving an old copy of the map: no leader was found in time", "err", err)
			return nil
		}
		select {
		case <-limited.Done():
		case <-time.After(pause):
		}
	}
}

// tellReady tells the service manager once that starting is over, and then what goes on.
func (d *daemon) tellReady(status string) {
	d.ready.Do(func() {
		if err := lifecycle.Notify(lifecycle.Ready); err != nil {
			d.log.Warn("service manager not told", "err", err)
		}
	})
	lifecycle.Notify("STATUS=" + status)
}

// reload takes over what may change while running: the level of the log, users, the certificate, how
// backends are reached, when snapshots are taken, and the schedule of backups.
func (d *daemon) reload() {
	lifecycle.Reloading()
	defer lifecycle.Notify(lifecycle.Ready)
	cfg, err := config.Load(d.file)
	if err != nil {
		d.log.Error("configuration not taken over", "file", d.file, "err", err)
		return
	}
	errs := []error{obs.SetLevel(d.level, cfg.Log.Level), d.users.reload()}
	if d.cert != nil {
		errs = append(errs, d.cert.Reload())
	}
	if set := d.operations.backendSet(); set != nil {
		def, servers, err := backendSettings(&cfg.Backends)
		if err == nil {
			set.Update(def, servers)
		}
		errs = append(errs, err)
	}
	errs = append(errs, d.node.Tune(cluster.Tuning{SnapshotInterval: cfg.Cluster.SnapshotInterval.Duration,
		SnapshotThreshold: cfg.Cluster.SnapshotThreshold, TrailingLogs: cfg.Cluster.TrailingLogs}))
	d.backups.configure(cfg.Backup)
	if err := errors.Join(errs...); err != nil {
		d.log.Error("reload was not complete", "err", err)
		return
	}
	d.log.Info("reloaded", "hint", "listeners, identities and limits change with a restart only")
}
