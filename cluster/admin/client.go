package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const maxAnswer = 64 << 20 // octets of one answer

// Error is an answer that is not what was asked for.
type Error struct {
	Code    int    `json:"-"` // HTTP status
	Message string `json:"error"`
	Hint    string `json:"hint,omitempty"`
}

func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + " (" + e.Hint + ")"
}

// Client talks to one node. It may be used from any goroutine.
type Client struct {
	base string
	http *http.Client
}

// NewClient makes a client for an address: the path of a unix socket ("/run/murder/admin.sock" or
// "unix:..."), or "http://...", "https://...", or host:port for plain HTTP. conf is for https only.
func NewClient(address string, conf *tls.Config) (*Client, error) {
	t := &http.Transport{TLSClientConfig: conf, MaxIdleConns: 4, IdleConnTimeout: 30 * time.Second}
	c := &Client{http: &http.Client{Transport: t}}
	path, unix := strings.CutPrefix(address, "unix:")
	switch {
	case unix || strings.Contains(address, "/") && !strings.Contains(address, "://"):
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
		c.base = "http://node"
	case strings.HasPrefix(address, "http://"), strings.HasPrefix(address, "https://"):
		c.base = strings.TrimSuffix(address, "/")
	default:
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, fmt.Errorf("admin address %q: want the path of a socket, a URL, or host:port", address)
		}
		c.base = "http://" + address
	}
	return c, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Init makes a new cluster of the node.
func (c *Client) Init(ctx context.Context, req InitRequest) (a InitAnswer, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/cluster/init", req, &a)
}

// Join makes the node a member.
func (c *Client) Join(ctx context.Context, token string) error {
	return c.do(ctx, http.MethodPost, "/v1/cluster/join", JoinRequest{token}, nil)
}

// CreateToken makes a join token.
func (c *Client) CreateToken(ctx context.Context, req TokenRequest) (a TokenAnswer, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/cluster/tokens", req, &a)
}

// Tokens lists the join tokens.
func (c *Client) Tokens(ctx context.Context) (a []TokenInfo, err error) {
	return a, c.do(ctx, http.MethodGet, "/v1/cluster/tokens", nil, &a)
}

// RevokeToken makes a token useless.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/v1/cluster/tokens/"+url.PathEscape(id), nil, nil)
}

// Transfer moves the leader, to whoever is furthest if to is empty.
func (c *Client) Transfer(ctx context.Context, to string) error {
	return c.do(ctx, http.MethodPost, "/v1/cluster/transfer", TransferRequest{to}, nil)
}

// Promote makes a voter of a coordinator, now; with force also if the number of voters becomes even.
func (c *Client) Promote(ctx context.Context, node string, force bool) error {
	path := "/v1/cluster/members/" + url.PathEscape(node) + "/promote"
	if force {
		path += "?force=1"
	}
	return c.do(ctx, http.MethodPost, path, nil, nil)
}

// Demote makes a learner of a voter.
func (c *Client) Demote(ctx context.Context, node string) error {
	return c.do(ctx, http.MethodPost, "/v1/cluster/members/"+url.PathEscape(node)+"/demote", nil, nil)
}

// Remove takes a node out of the cluster for good.
func (c *Client) Remove(ctx context.Context, node string) error {
	return c.do(ctx, http.MethodDelete, "/v1/cluster/members/"+url.PathEscape(node), nil, nil)
}

// Drain takes a node out of service, and off the lead, without stopping it.
func (c *Client) Drain(ctx context.Context, node string) error {
	return c.do(ctx, http.MethodPost, "/v1/cluster/members/"+url.PathEscape(node)+"/drain", nil, nil)
}

// Undrain puts a node back into service.
func (c *Client) Undrain(ctx context.Context, node string) error {
	return c.do(ctx, http.MethodPost, "/v1/cluster/members/"+url.PathEscape(node)+"/undrain", nil, nil)
}

// Finalize raises the cluster version to what all nodes can speak.
func (c *Client) Finalize(ctx context.Context) (a FinalizeAnswer, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/cluster/finalize", nil, &a)
}

// SetAddress tells the cluster where a node is.
func (c *Client) SetAddress(ctx context.Context, node, address string) error {
	return c.do(ctx, http.MethodPut, "/v1/cluster/members/"+url.PathEscape(node)+"/address", AddressRequest{address}, nil)
}

// Status describes the cluster as the node sees it.
func (c *Client) Status(ctx context.Context) (a Status, err error) {
	return a, c.do(ctx, http.MethodGet, "/v1/status", nil, &a)
}

// Digest compares the copies of all nodes.
func (c *Client) Digest(ctx context.Context) (a DigestReport, err error) {
	return a, c.do(ctx, http.MethodGet, "/v1/digest", nil, &a)
}

// Mailboxes lists one page of records.
func (c *Client) Mailboxes(ctx context.Context, q MailboxQuery) (a MailboxPage, err error) {
	return a, c.do(ctx, http.MethodGet, "/v1/mailboxes?"+q.values().Encode(), nil, &a)
}

// Mailbox returns one record; consistent asks for a barrier first. An absent name is an *Error with
// Code 404.
func (c *Client) Mailbox(ctx context.Context, name string, consistent bool) (a Mailbox, err error) {
	return a, c.do(ctx, http.MethodGet, namePath("/v1/mailboxes/", name, consistent), nil, &a)
}

func namePath(path, name string, consistent bool) string {
	path += url.PathEscape(name)
	if consistent {
		path += "?consistent=1"
	}
	return path
}

// History returns what is remembered of a name, oldest first.
func (c *Client) History(ctx context.Context, name string) (a []Event, err error) {
	return a, c.do(ctx, http.MethodGet, "/v1/history/"+url.PathEscape(name), nil, &a)
}

// Conflicts lists the names that more than one server claims.
func (c *Client) Conflicts(ctx context.Context) (a []Conflict, err error) {
	return a, c.do(ctx, http.MethodGet, "/v1/conflicts", nil, &a)
}

// Reservations lists the reserved names.
func (c *Client) Reservations(ctx context.Context) (a []Reservation, err error) {
	return a, c.do(ctx, http.MethodGet, "/v1/reservations", nil, &a)
}

// Backup writes a snapshot of the cluster's state to w.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	resp, err := c.send(ctx, http.MethodGet, "/v1/backup", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("reading backup: %w", err)
	}
	return nil
}

// Restore compares a backup with the map and, with apply, makes the map like it.
func (c *Client) Restore(ctx context.Context, backup io.Reader, apply bool) (a RestoreReport, err error) {
	path := "/v1/restore"
	if apply {
		path += "?apply=1"
	}
	return a, c.do(ctx, http.MethodPost, path, backup, &a)
}

// Health asks one of the health endpoints: "/livez", "/readyz" or "/healthz/cluster", with a query if
// wanted. An answer that says no is not an error.
func (c *Client) Health(ctx context.Context, path string) (h Health, err error) {
	err = c.do(ctx, http.MethodGet, path, nil, &h)
	return h, err
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("answer of %s to %s: %w", c.base, path, err)
	}
	return nil
}

// send returns a good answer, or a health answer that says no.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	body, raw := in.(io.Reader)
	if in != nil && !raw {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without a URL that nobody has typed
		}
		return nil, fmt.Errorf("talking to the node: %w", err)
	}
	if resp.StatusCode < 300 || resp.Header.Get(healthHeader) != "" {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &Error{Code: resp.StatusCode}
	if json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(e) != nil || e.Message == "" {
		e.Message = resp.Status
	}
	return nil, e
}
