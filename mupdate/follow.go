package mupdate

import (
	"context"
	"math/rand/v2"
	"time"

	"murder/internal/mbox"
)

// Pauses between attempts of Follow, before jitter.
const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 20 * time.Second
)

// Follow keeps an UPDATE stream alive until ctx ends, whose error it returns. Every new connection
// begins with a whole dump. A stream that was complete makes the next attempt come soon again.
func Follow(ctx context.Context, cfg ClientConfig, hosts []mbox.Server, ev Events) error {
	retry := firstRetry
	synced := ev.Synced
	ev.Synced = func() error {
		retry = firstRetry
		if synced == nil {
			return nil
		}
		return synced()
	}
	for {
		c, err := Dial(ctx, cfg)
		if err == nil {
			err = c.Update(ctx, hosts, ev)
			c.Close()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if ev.Lost != nil {
			ev.Lost(err)
		}
		pause(ctx, retry/2+rand.N(retry))
		retry = min(2*retry, lastRetry)
	}
}
