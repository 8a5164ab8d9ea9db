package cluster

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"murder/cluster/admin"
	"murder/fsm"
)

const (
	tokenPrefix  = "murder-join-"
	tokenLife    = time.Hour
	maxTokenLife = 30 * 24 * time.Hour
)

// token is what a join token carries. The cluster keeps only a hash of the secret.
type token struct {
	Cluster   string   `json:"c"`
	Addresses []string `json:"a"`
	CAHash    string   `json:"h"`
	ID        string   `json:"i"`
	Secret    string   `json:"s"`
	Role      Role     `json:"r"`
}

// String is the token in one line.
func (t token) String() string {
	data, _ := json.Marshal(t) // strings only: cannot fail
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(data)
}

func parseToken(s string) (token, error) {
	var t token
	rest, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	data, err := base64.RawURLEncoding.DecodeString(rest)
	if !ok || err != nil || json.Unmarshal(data, &t) != nil || t.Cluster == "" || len(t.Addresses) == 0 || t.ID == "" || t.Secret == "" {
		return t, errors.New("join token is incomplete: copy the whole line that murderctl cluster token create printed")
	}
	return t, nil
}

// CreateToken makes a token with which nodes of one role can join. Only coordinators can.
func (n *Node) CreateToken(ctx context.Context, req admin.TokenRequest) (admin.TokenAnswer, error) {
	e := n.engine.Load()
	if e == nil {
		return admin.TokenAnswer{}, errNotMember
	}
	role := Role(req.Role).member()
	switch role {
	case Coordinator, Frontend, Agent:
	default:
		return admin.TokenAnswer{}, refuse("role %q: want coordinator, frontend or agent", req.Role)
	}
	setDefault(&req.Lifetime, tokenLife)
	setDefault(&req.Uses, 1)
	if req.Lifetime < 0 || req.Lifetime > maxTokenLife || req.Uses < 0 {
		return admin.TokenAnswer{}, refuse("a token lives at most %s and has at least one use", maxTokenLife)
	}
	t := token{
		Cluster: e.identity.ClusterID, CAHash: fingerprint(e.keys.ca),
		ID: rand.Text()[:10], Secret: rand.Text(), Role: role,
	}
	now := n.now()
	expires := now.Add(req.Lifetime)
	err := n.propose(ctx, fsm.PutToken{Now: now.Unix(), Token: fsm.Token{
		ID: t.ID, SecretHash: sha256.Sum256([]byte(t.Secret)), Role: fsmRole(role),
		UsesLeft: uint32(req.Uses), ExpiresUnix: expires.Unix(),
	}})
	if err != nil {
		return admin.TokenAnswer{}, fmt.Errorf("creating token: %w", err)
	}
	// Only now is this node's copy known to be current: one that has just started would name nobody.
	n.State().Nodes(func(rec fsm.Node) bool {
		if rec.Role == fsm.RoleCoordinator {
			t.Addresses = append(t.Addresses, rec.Address)
		}
		return true
	})
	if len(t.Addresses) == 0 {
		return admin.TokenAnswer{}, notProposed("no coordinator has registered yet: try again in a moment")
	}
	return admin.TokenAnswer{ID: t.ID, Token: t.String(), Role: string(role), Uses: req.Uses, Expires: expires.UTC()}, nil
}

// Tokens lists the join tokens, without their secrets.
func (n *Node) Tokens() []admin.TokenInfo {
	list := []admin.TokenInfo{}
	n.State().Tokens(func(t fsm.Token) bool {
		list = append(list, admin.TokenInfo{
			ID: t.ID, Role: t.Role.String(), UsesLeft: int(t.UsesLeft), UsedBy: t.UsedBy,
			Expires: time.Unix(t.ExpiresUnix, 0).UTC(),
		})
		return true
	})
	return list
}

// RevokeToken makes a token useless.
func (n *Node) RevokeToken(ctx context.Context, id string) error {
	return n.propose(ctx, fsm.RevokeToken{ID: id})
}
