package main

import (
	"context"
	"net/http"
	"time"

	"murder/internal/lifecycle"
)

const (
	leadStop  = 8 * time.Second  // three attempts to hand over the lead, and a word in the registry
	nodeStop  = 12 * time.Second // the same again if it has come back, and closing the stores
	adminStop = 2 * time.Second
)

// shutdown stops a node in order:
//
//  1. the service manager and load balancers hear of it (readiness is gone);
//  2. the node hands over the lead, as when it is drained;
//  3. listeners close, sessions finish what they are doing, as when it is drained;
//  4. the node closes its log;
//  5. the admin API ends, so that an operator can watch until here.
func (d *daemon) shutdown() {
	lifecycle.Notify(lifecycle.Stopping)
	d.serving.Store(false)
	lead := lifecycle.Stage{Name: "lead", Limit: leadStop, Parts: []func(context.Context) error{d.node.StandDown}}
	node := lifecycle.Stage{Name: "node", Limit: nodeStop, Parts: []func(context.Context) error{d.node.Shutdown}}
	api := lifecycle.Stage{Name: "admin", Limit: adminStop}
	for _, srv := range d.admin {
		api.Parts = append(api.Parts, stopHTTP(srv))
	}
	lifecycle.Stop(context.Background(), d.log, lead)
	d.closeServices()
	lifecycle.Stop(context.Background(), d.log, node, api)
	d.log.Info("stopped")
}

func stopHTTP(srv *http.Server) func(context.Context) error {
	return func(ctx context.Context) error {
		defer srv.Close()
		return srv.Shutdown(ctx)
	}
}
