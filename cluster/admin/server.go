package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"murder/internal/mbox"
)

// Node is what the handler needs of a node.
type Node interface {
	Init(context.Context, InitRequest) (InitAnswer, error)
	Join(ctx context.Context, token string) error
	CreateToken(context.Context, TokenRequest) (TokenAnswer, error)
	Tokens() []TokenInfo
	RevokeToken(ctx context.Context, id string) error
	Transfer(ctx context.Context, to string) error
	Promote(ctx context.Context, node string, force bool) error
	Demote(ctx context.Context, node string) error
	Remove(ctx context.Context, node string) error
	SetAddress(ctx context.Context, node, address string) error
	Drain(ctx context.Context, node string) error
	Undrain(ctx context.Context, node string) error
	Finalize(context.Context) (FinalizeAnswer, error)

	Status(context.Context) Status
	Digest(context.Context) (DigestReport, error)
	Backup(context.Context, io.Writer) error
	Restore(ctx context.Context, backup io.Reader, apply bool) (RestoreReport, error)

	View() mbox.View
	Barrier(context.Context) (uint64, error)
	History(name mbox.Name) []Event
	Conflicts() []Conflict
	Reservations() []Reservation

	Repairer
	Finder
	Follower

	Live() Health
	Ready(context.Context, ReadyQuery) Health
	Healthy(context.Context) Health
}

// ReadyQuery narrows what counts as ready.
type ReadyQuery struct {
	Leader  bool          // this node must lead
	MaxLag  uint64        // entries behind the leader, 0 for the default
	Barrier time.Duration // a barrier must succeed within it, 0 for none
}

const (
	requestLimit = 30 * time.Second
	joinLimit    = 5 * time.Minute // a large copy takes its time
	maxRequest   = 1 << 20
	restoreLimit = time.Hour
	maxBackup    = 4 << 30
	healthHeader = "Murder-Health"
)

// Handler serves the admin interface of a node. Who may reach it is the listener's affair: a unix
// socket with a mode, or TLS with client certificates.
func Handler(n Node) http.Handler {
	mux := http.NewServeMux()
	h := handler{node: n, lists: make(chan struct{}, maxLists), listAge: listAge}
	handle := func(path string, limit time.Duration, f func(context.Context, *http.Request) (any, error)) {
		mux.HandleFunc(path, answer(limit, f))
	}
	handle("POST /v1/cluster/init", requestLimit, h.init)
	mux.HandleFunc("POST /v1/cluster/join", patient(workEvery, answer(joinLimit, h.join)))
	handle("POST /v1/cluster/tokens", requestLimit, h.createToken)
	handle("GET /v1/cluster/tokens", requestLimit, h.tokens)
	handle("DELETE /v1/cluster/tokens/{id}", requestLimit, h.revokeToken)
	handle("POST /v1/cluster/transfer", requestLimit, h.transfer)
	handle("POST /v1/cluster/members/{id}/promote", requestLimit, h.promote)
	handle("POST /v1/cluster/members/{id}/demote", requestLimit, h.demote)
	handle("DELETE /v1/cluster/members/{id}", requestLimit, h.remove)
	handle("PUT /v1/cluster/members/{id}/address", requestLimit, h.setAddress)
	handle("POST /v1/cluster/members/{id}/drain", requestLimit, h.drain)
	handle("POST /v1/cluster/members/{id}/undrain", requestLimit, h.undrain)
	handle("POST /v1/cluster/finalize", requestLimit, h.finalize)
	handle("GET /v1/status", requestLimit, h.status)
	handle("GET /v1/digest", requestLimit, h.digest)
	handle("GET /v1/mailboxes", requestLimit, h.mailboxes)
	handle("GET /v1/mailboxes/{name...}", requestLimit, h.mailbox)
	handle("GET /v1/history/{name...}", requestLimit, h.history)
	handle("GET /v1/conflicts", requestLimit, h.conflicts)
	handle("GET /v1/reservations", requestLimit, h.reservations)
	handle("GET /v1/findings", requestLimit, h.findings)
	handle("POST /v1/repair", requestLimit, h.repair)
	handle("GET /v1/details/{name...}", requestLimit, h.detail)
	mux.HandleFunc("GET /v1/list", h.mailboxStream)
	mux.HandleFunc("GET /v1/changes", h.watch)
	mux.HandleFunc("GET /v1/backup", patient(workEvery, h.backup))
	mux.HandleFunc("POST /v1/restore", patient(workEvery, answerTo(restoreLimit, maxBackup, h.restore)))
	mux.HandleFunc("GET /livez", health(func(r *http.Request) (Health, error) { return n.Live(), nil }))
	mux.HandleFunc("GET /readyz", health(h.ready))
	mux.HandleFunc("GET /healthz/cluster", health(func(r *http.Request) (Health, error) { return n.Healthy(r.Context()), nil }))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &Error{Code: http.StatusNotFound, Message: "no such request: " + r.Method + " " + r.URL.Path})
	})
	return mux
}

type handler struct {
	node    Node
	lists   chan struct{} // slots
	listAge time.Duration
}

func (h handler) init(ctx context.Context, r *http.Request) (any, error) {
	var req InitRequest
	if err := read(r, &req); err != nil {
		return nil, err
	}
	return h.node.Init(ctx, req)
}

func (h handler) join(ctx context.Context, r *http.Request) (any, error) {
	var req JoinRequest
	if err := read(r, &req); err != nil {
		return nil, err
	}
	return nil, h.node.Join(ctx, req.Token)
}

func (h handler) createToken(ctx context.Context, r *http.Request) (any, error) {
	var req TokenRequest
	if err := read(r, &req); err != nil {
		return nil, err
	}
	return h.node.CreateToken(ctx, req)
}

func (h handler) tokens(context.Context, *http.Request) (any, error) { return h.node.Tokens(), nil }

func (h handler) revokeToken(ctx context.Context, r *http.Request) (any, error) {
	return nil, h.node.RevokeToken(ctx, r.PathValue("id"))
}

func (h handler) transfer(ctx context.Context, r *http.Request) (any, error) {
	var req TransferRequest
	if err := read(r, &req); err != nil {
		return nil, err
	}
	return nil, h.node.Transfer(ctx, req.To)
}

func (h handler) promote(ctx context.Context, r *http.Request) (any, error) {
	return nil, h.node.Promote(ctx, r.PathValue("id"), r.URL.Query().Has("force"))
}

func (h handler) demote(ctx context.Context, r *http.Request) (any, error) {
	return nil, h.node.Demote(ctx, r.PathValue("id"))
}

func (h handler) remove(ctx context.Context, r *http.Request) (any, error) {
	return nil, h.node.Remove(ctx, r.PathValue("id"))
}

func (h handler) setAddress(ctx context.Context, r *http.Request) (any, error) {
	var req AddressRequest
	if err := read(r, &req); err != nil {
		return nil, err
	}
	return nil, h.node.SetAddress(ctx, r.PathValue("id"), req.Address)
}

func (h handler) drain(ctx context.Context, r *http.Request) (any, error) {
	return nil, h.node.Drain(ctx, r.PathValue("id"))
}

func (h handler) undrain(ctx context.Context, r *http.Request) (any, error) {
	return nil, h.node.Undrain(ctx, r.PathValue("id"))
}

func (h handler) finalize(ctx context.Context, _ *http.Request) (any, error) {
	return h.node.Finalize(ctx)
}

func (h handler) status(ctx context.Context, _ *http.Request) (any, error) {
	return h.node.Status(ctx), nil
}

func (h handler) digest(ctx context.Context, _ *http.Request) (any, error) {
	return h.node.Digest(ctx)
}

func (h handler) history(_ context.Context, r *http.Request) (any, error) {
	return h.node.History(mbox.Name(r.PathValue("name"))), nil
}

func (h handler) conflicts(context.Context, *http.Request) (any, error) {
	return h.node.Conflicts(), nil
}

func (h handler) reservations(context.Context, *http.Request) (any, error) {
	return h.node.Reservations(), nil
}

func (h handler) backup(w http.ResponseWriter, r *http.Request) {
	begun := &startedWriter{ResponseWriter: w, stall: streamStall}
	if err := h.node.Backup(r.Context(), begun); err != nil {
		if !begun.started {
			writeError(w, err)
			return
		}
		panic(http.ErrAbortHandler) // the client must not take a part for the whole
	}
}

func (h handler) restore(ctx context.Context, r *http.Request) (any, error) {
	return h.node.Restore(ctx, r.Body, r.URL.Query().Has("apply"))
}

// startedWriter knows whether the answer has begun, and gives up on a client that takes nothing for so long.
type startedWriter struct {
	http.ResponseWriter
	started bool
	stall   time.Duration
}

func (w *startedWriter) Write(p []byte) (int, error) {
	if !w.started {
		w.started = true
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.stall))
	return w.ResponseWriter.Write(p)
}

// answer runs one request within a limit and writes its result as JSON.
func answer(limit time.Duration, f func(context.Context, *http.Request) (any, error)) http.HandlerFunc {
	return answerTo(limit, maxRequest, f)
}

func answerTo(limit time.Duration, size int64, f func(context.Context, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, size)
		v, err := f(ctx, r)
		if err != nil {
			writeError(w, err)
			return
		}
		if v == nil {
			v = struct{}{}
		}
		writeJSON(w, http.StatusOK, v)
	}
}

func read(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return &Error{Code: http.StatusBadRequest, Message: "request is not understood: " + err.Error()}
	}
	return nil
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v)
}

// writeError sorts errors by what the operator can do about them.
func writeError(w http.ResponseWriter, err error) {
	var ready *Error
	var refused interface{ Refused() bool }
	e := &Error{Code: http.StatusInternalServerError, Message: err.Error()}
	switch {
	case errors.As(err, &ready):
		e = ready
	case errors.As(err, &refused) && refused.Refused():
		e.Code = http.StatusConflict
	case errors.Is(err, mbox.ErrUnknownOutcome):
		e.Code = http.StatusGatewayTimeout
		e.Hint = "look with murderctl cluster status before you try again"
	case errors.Is(err, mbox.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		e.Code = http.StatusServiceUnavailable
		e.Hint = "a majority of the coordinators must run: see murderctl cluster status"
	}
	writeJSON(w, e.Code, e)
}
