package cluster

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// hcLog passes what the raft library logs to slog. The library is chatty at its info level, so that
// becomes debug; warnings and errors keep their level.
type hcLog struct {
	*slog.Logger
	name    string
	implied []any
}

func newHCLog(l *slog.Logger, name string) hclog.Logger {
	return &hcLog{Logger: l.With("component", name), name: name}
}

func slogLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	}
	return slog.LevelDebug
}

func (h *hcLog) Log(level hclog.Level, msg string, args ...any) {
	ctx := context.Background()
	if !h.Logger.Enabled(ctx, slogLevel(level)) {
		return
	}
	fields := make([]any, len(args))
	copy(fields, args)
	for i, a := range fields {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			if format, ok := f[0].(string); ok {
				fields[i] = fmt.Sprintf(format, f[1:]...)
			}
		}
	}
	h.Logger.Log(ctx, slogLevel(level), msg, fields...)
}

func (h *hcLog) Trace(msg string, args ...any) { h.Log(hclog.Trace, msg, args...) }
func (h *hcLog) Debug(msg string, args ...any) { h.Log(hclog.Debug, msg, args...) }
func (h *hcLog) Info(msg string, args ...any)  { h.Log(hclog.Info, msg, args...) }
func (h *hcLog) Warn(msg string, args ...any)  { h.Log(hclog.Warn, msg, args...) }
func (h *hcLog) Error(msg string, args ...any) { h.Log(hclog.Error, msg, args...) }

func (h *hcLog) enabled(l hclog.Level) bool {
	return h.Logger.Enabled(context.Background(), slogLevel(l))
}
func (h *hcLog) IsTrace() bool { return h.enabled(hclog.Trace) }
func (h *hcLog) IsDebug() bool { return h.enabled(hclog.Debug) }
func (h *hcLog) IsInfo() bool  { return h.enabled(hclog.Info) }
func (h *hcLog) IsWarn() bool  { return h.enabled(hclog.Warn) }
func (h *hcLog) IsError() bool { return h.enabled(hclog.Error) }

func (h *hcLog) ImpliedArgs() []any { return h.implied }
func (h *hcLog) Name() string       { return h.name }
func (h *hcLog) SetLevel(hclog.Level) {
}
func (h *hcLog) GetLevel() hclog.Level { return hclog.NoLevel }

func (h *hcLog) With(args ...any) hclog.Logger {
	return &hcLog{h.Logger.With(args...), h.name, append(h.implied[:len(h.implied):len(h.implied)], args...)}
}

func (h *hcLog) Named(name string) hclog.Logger {
	if h.name != "" {
		name = h.name + "." + name
	}
	return h.ResetNamed(name)
}

func (h *hcLog) ResetNamed(name string) hclog.Logger {
	return &hcLog{h.Logger, name, h.implied}
}

func (h *hcLog) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(h.StandardWriter(o), "", 0)
}

func (h *hcLog) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lineWriter{h} }

type lineWriter struct{ hclog.Logger }

func (w lineWriter) Write(p []byte) (int, error) {
	w.Info(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}
