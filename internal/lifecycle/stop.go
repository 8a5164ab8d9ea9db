package lifecycle

import (
	"context"
	"log/slog"
	"time"
)

// Stage is one step of stopping: its parts are stopped at the same time.
type Stage struct {
	Name  string
	Limit time.Duration
	Parts []func(context.Context) error
}

// Stop runs the stages one after the other. What has not ended when its limit is over is logged and
// left behind: stopping always comes to an end.
func Stop(ctx context.Context, logger *slog.Logger, stages ...Stage) {
	for _, s := range stages {
		if len(s.Parts) == 0 {
			continue
		}
		began := time.Now()
		err := s.run(ctx)
		if err != nil {
			logger.Warn("stopping was cut short", "stage", s.Name, "dur", time.Since(began), "err", err)
			continue
		}
		logger.Debug("stopped", "stage", s.Name, "dur", time.Since(began))
	}
}

// grace is what a part gets beyond its limit to notice that its context has ended.
const grace = 2 * time.Second

func (s Stage) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.Limit)
	defer cancel()
	done := make(chan error, len(s.Parts))
	for _, part := range s.Parts {
		go func() { done <- part(ctx) }()
	}
	late := time.NewTimer(s.Limit + grace)
	defer late.Stop()
	var first error
	for range s.Parts {
		select {
		case err := <-done:
			if err != nil && first == nil {
				first = err
			}
		case <-late.C:
			return context.DeadlineExceeded
		}
	}
	return first
}
