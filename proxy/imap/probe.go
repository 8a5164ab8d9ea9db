package imap

import (
	"context"
	"slices"
	"sync"
	"time"

	"murder/internal/mbox"
)

// probesAtOnce is how many backends are visited at a time: one that hangs keeps nobody from hearing of the others.
const probesAtOnce = 8

// probe keeps the capability table fresh by short visits to every backend under our own identity.
func (srv *Server) probe(ctx context.Context) {
	for {
		list := srv.servers()
		srv.caps.keep(list)
		var visits sync.WaitGroup
		turns := make(chan struct{}, probesAtOnce)
		for _, server := range list {
			turns <- struct{}{}
			visits.Go(func() {
				srv.visit(ctx, server)
				<-turns
			})
		}
		visits.Wait()
		select {
		case <-time.After(srv.cfg.ProbeInterval):
		case <-ctx.Done():
			return
		}
	}
}

// visit looks at one backend.
func (srv *Server) visit(ctx context.Context, server mbox.Server) {
	if ctx.Err() != nil {
		return
	}
	so, err := srv.connect(ctx, server, "", "")
	if err != nil {
		if ctx.Err() == nil {
			srv.cfg.Logger.Debug("backend not probed", "backend", server, "err", err)
		}
		return
	}
	defer so.nc.Close()
	defer context.AfterFunc(ctx, func() { so.nc.Close() })()
	srv.caps.learn(server, so.caps)
	so.nc.SetDeadline(time.Now().Add(time.Second))
	if srv.cfg.Placement.space() {
		srv.place.look(so)
	}
	so.ask("LOGOUT")
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
