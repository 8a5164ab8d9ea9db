package main

import (
	"context"
	"fmt"
	"time"

	"murder/internal/lifecycle"
)

// drainInterval is how often the daemon looks whether its node is draining.
const drainInterval = 100 * time.Millisecond

// closeServices stops listening, tells idle clients to go, and lets the others finish: what SIGTERM and
// "murderctl node drain" have in common.
func (d *daemon) closeServices() {
	d.leaving.Store(true)
	d.serving.Store(false)
	defer d.leaving.Store(false)
	sessions := lifecycle.Stage{Name: "sessions", Limit: d.cfg.Node.DrainTimeout.Duration}
	for _, s := range d.services {
		sessions.Parts = append(sessions.Parts, s.stop)
	}
	lifecycle.Stop(context.Background(), d.log, sessions)
	d.services = nil
	d.operations.clear()
	if d.scope != nil {
		d.scope.Close()
	}
}

// followDrain closes the services while the node is drained, and opens them again when it is taken back, until
// ctx ends.
func (d *daemon) followDrain(ctx context.Context) {
	tick := time.NewTicker(drainInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		switch drained := d.node.Drained(); {
		case drained && d.serving.Load():
			d.log.Info("drained: sessions end", "limit", d.cfg.Node.DrainTimeout.Duration)
			d.tellReady("drained")
			d.closeServices()
			d.log.Info("no clients any more", "hint", "stop the node now, or murderctl node undrain")
		case !drained && !d.serving.Load():
			if err := d.openServices(); err != nil {
				d.fail(fmt.Errorf("back in service: %w", err))
				return
			}
			d.serving.Store(true)
			d.tellReady("serving")
			d.log.Info("back in service", "services", d.serviceNames())
		}
	}
}
