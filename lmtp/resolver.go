package lmtp

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/mbox"
)

// Status says what is known about a recipient.
type Status uint8

const (
	Found     Status = iota
	Unknown          // there is no such mailbox
	NoPost           // a shared mailbox that the sender may see but not post to
	Moving           // reserved or being moved
	Unsure           // the map could not be asked
	NotSynced        // this node has no complete map yet
	Loop             // the map says that the mailbox is on this very frontend
)

func (s Status) String() string {
	return [...]string{"found", "unknown", "no-post", "moving", "unsure", "not-synced", "loop"}[s]
}

// Route is where mail for an address goes.
type Route struct {
	Status Status
	Target
	Path   string      // the address for the backend
	Server mbox.Server // for Found, Moving and Loop
	State  mbox.State
	Index  uint64 // of the copy that was looked at
	Fresh  bool   // a barrier has been passed: nothing committed before the call is missing
	// Instead means that the mailbox itself is not in the map and something else stands in for it:
	// the catch-all, a parent found by fuzzy matching, a backend that creates mailboxes.
	Instead bool
}

// ResolverConfig says how addresses are looked up.
type ResolverConfig struct {
	Directory Directory // required
	Mapping   Mapping
	// Self are the names under which backends or the map might call this frontend.
	Self []mbox.Server
	// UnknownUsers is the backend that creates mailboxes when mail arrives for users without one;
	// "" for none. Cyrus: autocreate_post there.
	UnknownUsers mbox.Server
	Metrics      prometheus.Registerer // nil for none
}

// Resolver finds the backends of addresses. It is safe for concurrent use.
type Resolver struct {
	cfg     ResolverConfig
	barrier *barrier
}

// NewResolver returns a resolver.
func NewResolver(cfg ResolverConfig) (*Resolver, error) {
	if cfg.Directory == nil {
		return nil, errors.New("lmtp: no directory")
	}
	return &Resolver{cfg: cfg, barrier: newBarrier(cfg.Directory, cfg.Metrics)}, nil
}

// Synced reports whether there is a map to look at.
func (r *Resolver) Synced() bool { return r.cfg.Directory.Synced() }

// Resolve finds the backend of an address. poster is the user in whose name shared mailboxes are
// posted to, "" for anyone. An active mailbox is answered from the local copy at once; every other
// answer waits for one read barrier, for at most 2 s.
func (r *Resolver) Resolve(ctx context.Context, a Address, poster mbox.UserID) Route {
	return r.resolve(ctx, a, poster, false)
}

// ResolveFresh is Resolve with the barrier first.
func (r *Resolver) ResolveFresh(ctx context.Context, a Address, poster mbox.UserID) Route {
	return r.resolve(ctx, a, poster, true)
}

// Peek answers from the local copy alone, and says whether that is as good as Resolve's answer.
func (r *Resolver) Peek(a Address, poster mbox.UserID) (route Route, sure bool) {
	if !r.Synced() {
		return Route{Status: NotSynced, Path: a.Path}, true
	}
	t, ok := r.cfg.Mapping.Target(a)
	route = r.look(a, t, ok, poster)
	return route, route.sure()
}

// sure reports whether an answer needs no barrier.
func (route Route) sure() bool {
	return route.Status == Found && !route.Instead || route.Status == Loop
}

func (r *Resolver) resolve(ctx context.Context, a Address, poster mbox.UserID, fresh bool) Route {
	if !r.Synced() {
		return Route{Status: NotSynced, Path: a.Path}
	}
	t, ok := r.cfg.Mapping.Target(a)
	if !fresh {
		if route := r.look(a, t, ok, poster); route.sure() {
			return route
		}
	}
	// What nobody can be called is not worth a question, but the catch-all may be.
	if ok || r.cfg.Mapping.Catchall != "" {
		if err := r.barrier.wait(ctx, cmp.Or(t.Name, mbox.Name(a.Path))); err != nil {
			return Route{Status: Unsure, Target: t, Path: a.Path}
		}
	}
	route := r.look(a, t, ok, poster)
	route.Fresh = true
	return route
}

// look consults the local copy: the mailbox itself, then what stands in for unknown ones.
func (r *Resolver) look(a Address, t Target, ok bool, poster mbox.UserID) Route {
	v := r.cfg.Directory.View()
	route := Route{Status: Unknown, Target: t, Path: strings.TrimSuffix(a.Path, a.domain) + r.cfg.Mapping.domain(a), Index: v.Index()}
	if ok {
		r.find(v, &route, a, poster)
	}
	if route.Status != Unknown {
		return route
	}
	if catchall := r.cfg.Mapping.Catchall; catchall != "" {
		name := r.cfg.Mapping.Namespace.Inbox(catchall)
		if e, found := v.Get(name); found {
			route.Target, route.Path, route.Instead = Target{Name: name, Folder: name, User: catchall}, string(catchall), true
			r.settle(&route, e)
			return route
		}
	}
	if ok && !t.Shared && r.cfg.UnknownUsers != "" {
		route.Status, route.Server, route.Instead = Found, r.cfg.UnknownUsers, true
	}
	return route
}

func (r *Resolver) find(v mbox.View, route *Route, a Address, poster mbox.UserID) {
	e, found := v.Get(route.Name)
	if !found && route.Shared && r.cfg.Mapping.Fuzzy {
		if e, found = fuzzyMatch(v, route.Name, r.cfg.Mapping.addressable); found {
			route.Instead = fuzzyForm(e.Name) != fuzzyForm(route.Name)
			route.Name, route.Folder = e.Name, e.Name
			// The backend gets the name as it is: it need not be set to match fuzzily.
			detail, _ := r.cfg.Mapping.detail(e.Name)
			route.Path = a.local + "+" + detail
			if domain := r.cfg.Mapping.domain(a); domain != "" {
				route.Path += "@" + domain
			}
		}
	}
	if !found {
		return
	}
	r.settle(route, e)
	if route.Shared && route.Status == Found {
		// RFC 4314 section 4: p is the right to post. Who may not even see it learns nothing.
		rights := e.ACL.RightsOf(poster, nil)
		switch {
		case rights.Has(mbox.Post):
		case rights.Has(mbox.Lookup):
			route.Status = NoPost
		default:
			route.Status = Unknown
		}
	}
}

func (r *Resolver) settle(route *Route, e mbox.Entry) {
	route.Server, route.State = e.Location.Server(), e.State
	switch {
	case e.State != mbox.Active:
		route.Status = Moving
	case slices.Contains(r.cfg.Self, route.Server):
		route.Status = Loop
	default:
		route.Status = Found
	}
}

// State returns the state of a mailbox in the local copy, for those who ask about folders and do not
// want the fallback to INBOX.
func (r *Resolver) State(name mbox.Name) mbox.State {
	e, _ := r.cfg.Directory.View().Get(name)
	return e.State
}
