package cluster

import (
	"context"
	"encoding/json"
	"slices"
	"sync"

	"murder/fsm"
)

// Answerer answers a request of another node to this process, in JSON.
type Answerer func(ctx context.Context, body json.RawMessage) (any, error)

// Reply is what one node said.
type Reply struct {
	Node string
	Body json.RawMessage
	Err  error // the node could not be asked, or refused
}

// AskAll puts a request to the process of every member and returns what they say, by id. It is
// for what a process knows beyond the map; the requests it answers are Config.Answers. Only a
// coordinator is answered by others: elsewhere this node's own answer is all.
func (n *Node) AskAll(ctx context.Context, method string, in any) ([]Reply, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	replies := []Reply{{Node: n.cfg.NodeID}}
	var addrs []string
	if n.engine.Load() != nil && n.cfg.Role.member() == Coordinator {
		replies = replies[:0]
		n.State().Nodes(func(rec fsm.Node) bool {
			replies, addrs = append(replies, Reply{Node: rec.ID}), append(addrs, rec.Address)
			return true
		})
	}
	ctx, cancel := context.WithTimeout(ctx, 3*statusLimit)
	defer cancel()
	var wg sync.WaitGroup
	for i := range replies {
		wg.Go(func() {
			r := &replies[i]
			if r.Node == n.cfg.NodeID {
				r.Body, r.Err = n.answer(ctx, method, body)
				return
			}
			l, err := n.links.get(ctx, r.Node, addrs[i])
			if err == nil {
				err = l.call(ctx, method, json.RawMessage(body), &r.Body)
			}
			r.Err = err
		})
	}
	wg.Wait()
	return slices.Clip(replies), nil
}

func (n *Node) answer(ctx context.Context, method string, body json.RawMessage) (json.RawMessage, error) {
	f := n.cfg.Answers[method]
	if f == nil {
		return nil, refuse("node %s does not know the request %q: it may run an older version", n.cfg.NodeID, method)
	}
	v, err := f(ctx, body)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}
