package imap

import (
	"context"
	"slices"
	"time"

	"murder/internal/mbox"
)

// probe keeps the capability table fresh by short visits to every backend under our own identity.
func (srv *Server) probe(ctx context.Context) {
	for {
		list := srv.servers()
		srv.caps.keep(list)
		for _, server := range list {
			so, err := srv.connect(ctx, server, "", "")
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				srv.cfg.Logger.Debug("backend not probed", "backend", server, "err", err)
				continue
			}
			srv.caps.learn(server, so.caps)
			so.nc.SetDeadline(time.Now().Add(time.Second))
			if srv.cfg.Placement.space() {
				srv.place.look(so)
			}
			so.ask("LOGOUT")
			so.nc.Close()
		}
		select {
		case <-time.After(srv.cfg.ProbeInterval):
		case <-ctx.Done():
			return
		}
	}
}

// servers returns every backend that is configured or holds mailboxes.
func (srv *Server) servers() []mbox.Server {
	list := srv.cfg.Backends.Servers()
	for server := range srv.follow.population() {
		if !slices.Contains(list, server) {
			list = append(list, server)
		}
	}
	return list
}
