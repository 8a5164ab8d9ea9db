package admin

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Session is one client of a mail frontend.
type Session struct {
	Node     string    `json:"node"`
	ID       string    `json:"id"`
	Protocol string    `json:"protocol"`       // imap, pop3, sieve
	User     string    `json:"user,omitempty"` // empty before login
	Peer     string    `json:"peer"`
	TLS      bool      `json:"tls"`
	Since    time.Time `json:"since"`
	Active   time.Time `json:"active"`             // last command, or last octet
	Command  string    `json:"command,omitempty"`  // under way
	Mailbox  string    `json:"mailbox,omitempty"`  // selected
	Backends []string  `json:"backends,omitempty"` // connected to
	In       int64     `json:"in,omitempty"`       // octets from the client
	Out      int64     `json:"out,omitempty"`
}

// SessionList is the sessions of all nodes that could be asked.
type SessionList struct {
	Sessions []Session         `json:"sessions"`
	Missing  map[string]string `json:"missing,omitempty"` // why a node gave no answer
	// Only is the node whose sessions these are, if others could not be asked at all.
	Only string `json:"only,omitempty"`
}

// KickAnswer names the node that ended the session.
type KickAnswer struct {
	Node string `json:"node"`
}

// Backend is a server of the map, and how it is reached.
type Backend struct {
	Server    string          `json:"server"`
	Mailboxes int             `json:"mailboxes"`
	Reserved  int             `json:"reserved"`
	Services  []BackendStatus `json:"services,omitempty"` // those used by frontends since they started
}

// BackendStatus is one service of a server as one frontend sees it.
type BackendStatus struct {
	Node        string    `json:"node"`
	Server      string    `json:"server"`
	Service     string    `json:"service"` // imap, lmtp, pop3, sieve
	State       string    `json:"state"`   // up, down, refused
	Connections int       `json:"connections"`
	Failures    int       `json:"failures,omitempty"` // to connect, in a row
	RetryAt     time.Time `json:"retry_at,omitzero"`
	LastError   string    `json:"last_error,omitempty"`
	LastAt      time.Time `json:"last_at,omitzero"` // of LastError
}

// BackendList is every server that the map or a frontend knows.
type BackendList struct {
	Backends []Backend         `json:"backends"`
	Missing  map[string]string `json:"missing,omitempty"` // why a node gave no answer
	Only     string            `json:"only,omitempty"`    // as in SessionList
}

// Process is what only the running program knows, beside the map.
type Process interface {
	Sessions(ctx context.Context, user string) (SessionList, error)
	// Kick ends a session; an *Error with Code 404 says that there is none.
	Kick(ctx context.Context, id, reason string) (KickAnswer, error)
	Backends(context.Context) (BackendList, error)
	// AllowShrink lets the next dump of the MUPDATE server be much smaller than the one before.
	AllowShrink() error
}

// HandleProcess adds the requests about the running program to mux.
func HandleProcess(mux *http.ServeMux, p Process) {
	handle := func(path string, f func(context.Context, *http.Request) (any, error)) {
		mux.HandleFunc(path, answer(requestLimit, f))
	}
	handle("GET /v1/sessions", func(ctx context.Context, r *http.Request) (any, error) {
		return p.Sessions(ctx, r.URL.Query().Get("user"))
	})
	handle("DELETE /v1/sessions/{id}", func(ctx context.Context, r *http.Request) (any, error) {
		return p.Kick(ctx, r.PathValue("id"), r.URL.Query().Get("reason"))
	})
	handle("GET /v1/backends", func(ctx context.Context, _ *http.Request) (any, error) { return p.Backends(ctx) })
	handle("POST /v1/mupdate/allow-shrink", func(context.Context, *http.Request) (any, error) { return nil, p.AllowShrink() })
}

// Sessions lists the clients of the mail frontends, of one user if it is not empty.
func (c *Client) Sessions(ctx context.Context, user string) (a SessionList, err error) {
	return a, c.do(ctx, http.MethodGet, "/v1/sessions?"+url.Values{"user": {user}}.Encode(), nil, &a)
}

// Kick ends a session.
func (c *Client) Kick(ctx context.Context, id, reason string) (a KickAnswer, err error) {
	return a, c.do(ctx, http.MethodDelete, "/v1/sessions/"+url.PathEscape(id)+"?"+url.Values{"reason": {reason}}.Encode(), nil, &a)
}

// Backends lists the servers of the map and how the frontends reach them.
func (c *Client) Backends(ctx context.Context) (a BackendList, err error) {
	return a, c.do(ctx, http.MethodGet, "/v1/backends", nil, &a)
}

// AllowShrink tells the node's MUPDATE server that a much smaller map is no accident.
func (c *Client) AllowShrink(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/v1/mupdate/allow-shrink", nil, nil)
}
