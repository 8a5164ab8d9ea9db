package admin

import (
	"context"
	"net/http"
)

// Levels of a Finding.
const (
	LevelProblem = "problem" // somebody should act
	LevelNotice  = "notice"  // good to know
)

// Finding is something that needs a human, with the command to go on with.
type Finding struct {
	Level   string `json:"level"`
	Kind    string `json:"kind"`              // conflict, cut-rename, transfer, unconfirmed, node, quorum, backend, certificate, version, backup
	Subject string `json:"subject,omitempty"` // the mailbox, node or server
	Detail  string `json:"detail"`
	Next    string `json:"next,omitempty"` // a command
}

// Finder is what the handler needs of a node to find what needs a human.
type Finder interface {
	Findings(context.Context) []Finding
}

func (h handler) findings(ctx context.Context, _ *http.Request) (any, error) {
	return h.node.Findings(ctx), nil
}

// Findings lists what needs a human.
func (c *Client) Findings(ctx context.Context) (a []Finding, err error) {
	return a, c.do(ctx, http.MethodGet, "/v1/findings", nil, &a)
}
