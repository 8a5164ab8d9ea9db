// Package obs makes a process observable: logs by log/slog, metrics for Prometheus, and what was
// built.
package obs

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NewLogger returns a logger that writes to w in a format, text or json. The level may be changed
// through the returned variable at any time.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, *slog.LevelVar, error) {
	var lv slog.LevelVar
	if err := SetLevel(&lv, level); err != nil {
		return nil, nil, err
	}
	options := &slog.HandlerOptions{Level: &lv}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), &lv, nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), &lv, nil
	}
	return nil, nil, fmt.Errorf("unknown log format %q: want text or json", format)
}

// SetLevel reads a level: debug, info, warn or error.
func SetLevel(lv *slog.LevelVar, level string) error {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return fmt.Errorf("unknown log level %q: want debug, info, warn or error", level)
	}
	lv.Set(l)
	return nil
}

// NewRegistry returns a registry with the metrics of the process and of the build in it.
func NewRegistry(version string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "murder_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": version, "revision": Revision(), "go": runtime.Version()},
	})
	build.Set(1)
	reg.MustRegister(build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// MetricsHandler serves /metrics.
func MetricsHandler(reg *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: 4})
}

// Revision returns the commit that the binary was built from, "unknown" without one.
func Revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, modified := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			revision = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "+"
		}
	}
	return revision + modified
}
