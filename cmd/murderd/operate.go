package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"murder/cluster"
	"murder/cluster/admin"
	"murder/internal/backend"
	"murder/internal/mbox"
	"murder/mupdate"
	"murder/proxy/imap"
	"murder/proxy/login"
)

// What operators ask the running program for, beside the map: sessions, backends, and what is wrong.
// The parts appear here as they start.
type operations struct {
	mu       sync.Mutex
	servers  []sessionServer
	backends *backend.Set    // nil without frontends
	mupdate  *mupdate.Server // nil if it is not served
}

// sessionServer is a protocol whose sessions can be listed and ended.
type sessionServer struct {
	list func() []admin.Session
	kick func(id, reason string) bool
}

func (o *operations) addSessions(s sessionServer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.servers = append(o.servers, s)
}

func (o *operations) addBackends(s *backend.Set) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.backends = s
}

func (o *operations) addMUPDATE(s *mupdate.Server) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mupdate = s
}

// clear forgets the servers, which have been shut down.
func (o *operations) clear() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.servers, o.mupdate = nil, nil
}

func (o *operations) backendSet() *backend.Set {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.backends
}

func (o *operations) sessionServers() []sessionServer {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.servers)
}

func imapSessions(s *imap.Server) sessionServer {
	return sessionServer{kick: s.Kick, list: func() (list []admin.Session) {
		for _, i := range s.Sessions() {
			list = append(list, admin.Session{ID: i.ID, Protocol: "imap", User: i.User, Peer: i.Peer, TLS: i.TLS, Since: i.Since,
				Active: i.Active, Command: i.Command, Mailbox: i.Mailbox, Backends: i.Backends, In: i.In, Out: i.Out})
		}
		return list
	}}
}

// loginServer is a protocol on top of package login.
type loginServer interface {
	Sessions() []login.Info
	Kick(id, reason string) bool
}

func loginSessions(protocol string, s loginServer) sessionServer {
	return sessionServer{kick: s.Kick, list: func() (list []admin.Session) {
		for _, i := range s.Sessions() {
			session := admin.Session{ID: i.ID, Protocol: protocol, User: i.User, Peer: i.Peer, TLS: i.TLS, Since: i.Since, Active: i.Active}
			if i.Backend != "" {
				session.Backends = []string{i.Backend}
			}
			list = append(list, session)
		}
		return list
	}}
}

// Requests that coordinators put to the processes of all nodes.
const (
	askSessions = "process-sessions"
	askKick     = "process-kick"
	askBackends = "process-backends"
)

type kickRequest struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// answers are what this process tells a coordinator.
func (d *daemon) answers() map[string]cluster.Answerer {
	return map[string]cluster.Answerer{
		askSessions: func(_ context.Context, body json.RawMessage) (any, error) {
			var user string
			err := json.Unmarshal(body, &user)
			return d.ownSessions(user), err
		},
		askKick: func(_ context.Context, body json.RawMessage) (any, error) {
			var req kickRequest
			err := json.Unmarshal(body, &req)
			return err == nil && d.ownKick(req), err
		},
		askBackends: func(context.Context, json.RawMessage) (any, error) { return d.ownBackends(), nil },
	}
}

// maxSessions bounds one node's list, which has to fit into one message.
const maxSessions = 10000

func (d *daemon) ownSessions(user string) []admin.Session {
	var list []admin.Session
	for _, s := range d.operations.sessionServers() {
		for _, session := range s.list() {
			if (user == "" || session.User == user) && len(list) < maxSessions {
				session.Node = d.cfg.Node.ID
				list = append(list, session)
			}
		}
	}
	return list
}

func (d *daemon) ownKick(req kickRequest) bool {
	for _, s := range d.operations.sessionServers() {
		if s.kick(req.ID, req.Reason) {
			d.log.Info("session ended by an operator", "conn", req.ID)
			return true
		}
	}
	return false
}

// refusalFresh is how long a refusal of our identity counts without another one.
const refusalFresh = 10 * time.Minute

func (d *daemon) ownBackends() []admin.BackendStatus {
	set := d.operations.backendSet()
	if set == nil {
		return nil
	}
	var list []admin.BackendStatus
	for _, s := range set.States() {
		b := admin.BackendStatus{Node: d.cfg.Node.ID, Server: string(s.Server), Service: s.Service.String(), State: "up",
			Connections: s.Conns, Failures: s.Failures, LastError: s.LastError, LastAt: s.LastAt}
		switch {
		case s.Breaker != "closed":
			b.State, b.RetryAt = "down", s.RetryAt
		case s.Refused != "" && time.Since(s.RefusedAt) < refusalFresh:
			b.State, b.LastError, b.LastAt = "refused", s.Refused, s.RefusedAt
		}
		list = append(list, b)
	}
	return list
}

// gather asks all nodes and adds up their lists.
func gather[T any](ctx context.Context, d *daemon, method string, in any) (all []T, missing map[string]string, only string, err error) {
	replies, err := d.node.AskAll(ctx, method, in)
	if err != nil {
		return nil, nil, "", err
	}
	if !d.cfg.Votes() {
		only = d.cfg.Node.ID
	}
	missing = map[string]string{}
	for _, r := range replies {
		var some []T
		if r.Err == nil {
			r.Err = json.Unmarshal(r.Body, &some)
		}
		if r.Err != nil {
			missing[r.Node] = r.Err.Error()
		}
		all = append(all, some...)
	}
	return all, missing, only, nil
}

// Sessions implements admin.Process.
func (d *daemon) Sessions(ctx context.Context, user string) (a admin.SessionList, err error) {
	a.Sessions, a.Missing, a.Only, err = gather[admin.Session](ctx, d, askSessions, user)
	return a, err
}

// Kick implements admin.Process.
func (d *daemon) Kick(ctx context.Context, id, reason string) (admin.KickAnswer, error) {
	replies, err := d.node.AskAll(ctx, askKick, kickRequest{id, reason})
	if err != nil {
		return admin.KickAnswer{}, err
	}
	for _, r := range replies {
		if string(r.Body) == "true" {
			return admin.KickAnswer{Node: r.Node}, nil
		}
	}
	e := &admin.Error{Code: http.StatusNotFound, Message: "no session " + id, Hint: "murderctl session list"}
	if !d.cfg.Votes() {
		e.Hint = "this node looks among its own sessions only: ask a coordinator, or the node itself"
	}
	return admin.KickAnswer{}, e
}

// Backends implements admin.Process.
func (d *daemon) Backends(ctx context.Context) (admin.BackendList, error) {
	states, missing, only, err := gather[admin.BackendStatus](ctx, d, askBackends, nil)
	if err != nil {
		return admin.BackendList{}, err
	}
	servers := map[mbox.Server]*admin.Backend{}
	at := func(name mbox.Server) *admin.Backend {
		if servers[name] == nil {
			servers[name] = &admin.Backend{Server: string(name)}
		}
		return servers[name]
	}
	d.node.View().Ascend("", func(e mbox.Entry) bool {
		if b := at(e.Location.Server()); e.State == mbox.Active {
			b.Mailboxes++
		} else {
			b.Reserved++
		}
		return true
	})
	for _, s := range states {
		b := at(mbox.Server(s.Server))
		b.Services = append(b.Services, s)
	}
	if set := d.operations.backendSet(); set != nil {
		for _, name := range set.Servers() {
			at(name)
		}
	}
	a := admin.BackendList{Backends: []admin.Backend{}, Missing: missing, Only: only}
	for _, b := range servers {
		a.Backends = append(a.Backends, *b)
	}
	slices.SortFunc(a.Backends, func(a, b admin.Backend) int { return cmp.Compare(a.Server, b.Server) })
	return a, nil
}

// AllowShrink implements admin.Process.
func (d *daemon) AllowShrink() error {
	d.operations.mu.Lock()
	srv := d.operations.mupdate
	d.operations.mu.Unlock()
	if srv == nil {
		return &admin.Error{Code: http.StatusConflict, Message: "this node does not serve MUPDATE yet"}
	}
	srv.AllowShrink()
	d.log.Warn("next dump may be smaller: an operator allowed it")
	return nil
}

const certificateWarning = 14 * 24 * time.Hour

// findings are what this process has to say to an operator.
func (d *daemon) findings() []admin.Finding {
	var list []admin.Finding
	problem := func(kind, subject, next, format string, args ...any) {
		list = append(list, admin.Finding{Level: admin.LevelProblem, Kind: kind, Subject: subject, Next: next, Detail: fmt.Sprintf(format, args...)})
	}
	for _, b := range d.ownBackends() {
		switch b.State {
		case "down":
			problem("backend", b.Server, "murderctl backend status "+b.Server, "%s cannot be reached: %s", b.Service, b.LastError)
		case "refused":
			problem("backend", b.Server, "on it: is our authname in proxyservers (and admins, for LMTP lmtp_admins) of imapd.conf, and the password right?",
				"%s refuses our identity: %s", b.Service, b.LastError)
		}
	}
	if d.cert != nil {
		if left := time.Until(d.cert.Expires()); left < certificateWarning {
			problem("certificate", d.cfg.TLS.CertFile, "renew it; it is read again when it changes", "the certificate shown to clients ends in %d days", int(left.Hours()/24))
		}
	}
	if text := d.backups.trouble(time.Now()); text != "" {
		problem("backup", d.cfg.Backup.Dir, "murderctl backup save FILE, and look at the log", "%s", text)
	}
	return list
}

var _ admin.Process = (*daemon)(nil)
