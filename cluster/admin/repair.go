package admin

import (
	"context"
	"net/http"
	"time"
)

// Things that an operator can do to one record by hand.
const (
	DoResolve = "resolve" // give a contested or moving name to Holder, and clear the claims of others
	DoRelease = "release" // end a reservation: a new name becomes free, a moving one goes back to its source
	DoRestore = "restore" // bring a deleted record back
	DoRemove  = "remove"  // take a record out of the map
	DoDismiss = "dismiss" // a name in the list of cut renames was meant to be deleted
)

// RepairRequest asks for one of them.
type RepairRequest struct {
	Do     string `json:"do"`
	Name   string `json:"name"`
	Holder string `json:"holder,omitempty"` // of DoResolve: a server
	Force  bool   `json:"force,omitempty"`
	// Apply does it; without, the answer only says what would be done. Index must then be that of the
	// plan: a record that has changed since is left alone.
	Apply bool   `json:"apply,omitempty"`
	Index uint64 `json:"index,omitempty"`
	By    string `json:"by,omitempty"` // who, for the history
}

// RepairPlan is what is, or would be, done to a record.
type RepairPlan struct {
	Name    string     `json:"name"`
	Index   uint64     `json:"index"`            // of the record that the plan is about
	Before  *Mailbox   `json:"before,omitempty"` // nil: absent
	After   *Mailbox   `json:"after,omitempty"`
	Claims  []Conflict `json:"claims,omitempty"` // that the plan clears
	Plan    string     `json:"plan"`             // a sentence
	Applied bool       `json:"applied"`
}

// Detail is everything that is known about one name: the fields of its record, if there is one, and more.
type Detail struct {
	*Mailbox
	Claims    []Conflict   `json:"claims,omitempty"`
	Hold      *Reservation `json:"reservation,omitempty"`
	Tombstone *Tombstone   `json:"tombstone,omitempty"`
	CutRename bool         `json:"cut_rename,omitempty"`
}

// Tombstone is what is remembered of a deleted record.
type Tombstone struct {
	Mailbox
	Deleted time.Time `json:"deleted"`
}

// Repairer is what the handler needs of a node for repairs.
type Repairer interface {
	Repair(context.Context, RepairRequest) (RepairPlan, error)
	Detail(name string) Detail
}

func (h handler) repair(ctx context.Context, r *http.Request) (any, error) {
	var req RepairRequest
	if err := read(r, &req); err != nil {
		return nil, err
	}
	return h.node.Repair(ctx, req)
}

func (h handler) detail(ctx context.Context, r *http.Request) (any, error) {
	if r.URL.Query().Has("consistent") {
		if _, err := h.node.Barrier(ctx); err != nil {
			return nil, err
		}
	}
	return h.node.Detail(r.PathValue("name")), nil
}

// Repair plans or makes a repair of one record.
func (c *Client) Repair(ctx context.Context, req RepairRequest) (p RepairPlan, err error) {
	return p, c.do(ctx, http.MethodPost, "/v1/repair", req, &p)
}

// Detail returns all that is known about a name, also an absent one; consistent asks for a barrier first.
func (c *Client) Detail(ctx context.Context, name string, consistent bool) (d Detail, err error) {
	return d, c.do(ctx, http.MethodGet, namePath("/v1/details/", name, consistent), nil, &d)
}
