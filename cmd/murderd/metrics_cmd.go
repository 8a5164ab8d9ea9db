package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"murder/internal/config"
	"murder/internal/obs"
)

func newMetricsReference() *cobra.Command {
	return &cobra.Command{
		Use: "metrics-reference", Short: "Write docs/metrics.md", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return metricsReference(cmd.OutOrStdout()) },
	}
}

// metricsReference opens a node with everything that it can serve, on ports that the system chooses,
// and writes what has been registered.
func metricsReference(w io.Writer) error {
	dir, err := os.MkdirTemp("", "murder-metrics")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &daemon{cfg: config.Default(config.Both), log: slog.New(slog.DiscardHandler), reg: obs.NewRegistry(version), failed: make(chan error, 1)}
	c, local := d.cfg, []string{"127.0.0.1:0"}
	c.Node.ID, c.Node.DataDir, c.Node.DrainTimeout = "n", dir, config.Duration{Duration: time.Second}
	c.Cluster.Listen, c.Gossip.Listen = local[0], ""
	c.MUPDATE.Listen, c.IMAP.Listen, c.POP3.Listen, c.Sieve.Listen, c.LMTP.Listen, c.Socketmap.Listen = local, local, local, local, local, local
	c.IMAP.ListenTLS, c.POP3.ListenTLS, c.Users.Saslauthd = nil, nil, "/nobody/asks"
	if err := d.openSecrets(); err != nil {
		return err
	}
	if err := d.openNode(); err != nil {
		return err
	}
	defer d.node.Shutdown(context.Background())
	err = d.openServices()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		for _, s := range d.services {
			s.stop(ctx)
		}
	}()
	if err != nil {
		return err
	}
	return writeMetrics(w, d.reg)
}

// descParts takes a description apart, for which the library has only text.
var descParts = regexp.MustCompile(`^Desc\{fqName: "(murder_[^"]*)", help: "(.*?)"(?:, unit: "[^"]*")?, constLabels: \{.*\}, variableLabels: \{(.*)\}\}$`)

func writeMetrics(w io.Writer, reg *prometheus.Registry) error {
	descs := make(chan *prometheus.Desc)
	go func() {
		reg.Describe(descs)
		close(descs)
	}()
	var rows []string
	for d := range descs {
		if m := descParts.FindStringSubmatch(d.String()); m != nil {
			labels := ""
			if m[3] != "" {
				labels = "`" + strings.ReplaceAll(m[3], ",", "` `") + "`"
			}
			rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |\n", m[1], labels, m[2]))
		}
	}
	slices.Sort(rows)
	_, err := io.WriteString(w, "# Metrics\n\n"+
		"`/metrics` on `admin.listen`, for Prometheus. Names that end in `_total` only grow. This page is made from what\n"+
		"a node registers, by `make docs`. The raft library adds its own under `raft_`, Go's runtime under `go_` and\n"+
		"`process_`.\n\n| Name | Labels | Meaning |\n|---|---|---|\n"+strings.Join(slices.Compact(rows), ""))
	return err
}
