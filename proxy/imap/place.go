package imap

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"murder/internal/mbox"
)

// Policy chooses the backend of a new user or of a new top-level shared folder.
type Policy string

const (
	LeastMailboxes  Policy = "least-mailboxes" // fewest records in the map; the default
	RoundRobin      Policy = "round-robin"
	Random          Policy = "random"
	Weighted        Policy = "weighted"                   // at random, by Placement.Weights
	FreeSpace       Policy = "freespace-most"             // most octets free
	FreePercent     Policy = "freespace-percent-most"     // least full
	FreePercentRand Policy = "freespace-percent-weighted" // at random, by the percentage free
	// FreePercentDelta is at random, by how much freer each is than the fullest, so that they become
	// equal soon.
	FreePercentDelta Policy = "freespace-percent-weighted-delta"
	Explicit         Policy = "explicit" // only where the administrator says
)

// Policies are all of them.
var Policies = []Policy{LeastMailboxes, RoundRobin, Random, Weighted, FreeSpace, FreePercent, FreePercentRand, FreePercentDelta, Explicit}

// space reports whether the free space of the backends must be known.
func (p *Placement) space() bool {
	return strings.HasPrefix(string(p.Policy), "freespace-") || p.FullAt > 0
}

// Rule names the candidates for some mailboxes, whatever Placement.Servers says. The first that fits
// counts.
type Rule struct {
	Domain  string         // of the name, "" for any
	Match   *regexp.Regexp // of the internal name without its domain, nil for any
	Servers []mbox.Server
}

func (r *Rule) fits(name mbox.Name) bool {
	domain, local := name.Split()
	return (r.Domain == "" || r.Domain == domain) && (r.Match == nil || r.Match.MatchString(string(local)))
}

// Placement says where new top-level mailboxes go.
type Placement struct {
	Policy Policy
	// Servers are the candidates; empty means every configured backend, and every backend that
	// holds a mailbox.
	Servers []mbox.Server
	Rules   []Rule
	// Weights are the shares of servers under Weighted; 1 for those that are missing.
	Weights map[mbox.Server]int
	// FullAt is from which percentage of use on a server gets no new mailboxes, unless all have
	// reached it; 0 for never. Cyrus: serverlist_select_soft_usage_limit.
	FullAt int
	// Accept reports whether a server takes new mailboxes now (not draining, not down); nil
	// accepts all.
	Accept func(mbox.Server) bool
}

// placer orders the candidates for new top-level mailboxes.
type placer struct {
	turn atomic.Uint64

	mu    sync.Mutex
	space map[mbox.Server]space
}

// space is how much room a server's partitions have, as of the last look.
type space struct{ free, total float64 }

// order returns the servers that may get a new mailbox, the best first.
func (p *placer) order(srv *Server, name mbox.Name) []mbox.Server {
	cfg := srv.cfg.Placement
	list := p.candidates(srv, name)
	if len(list) == 0 {
		return nil
	}
	// Servers that are equal take turns, so that a burst does not hit one of them.
	turn := int(p.turn.Add(1) % uint64(len(list)))
	list = append(list[turn:], list[:turn]...)
	rank := p.rank(srv, cfg, list)
	if rank == nil {
		return list
	}
	ranks := make(map[mbox.Server]float64, len(list))
	for _, server := range list {
		ranks[server] = rank(server)
	}
	slices.SortStableFunc(list, func(a, b mbox.Server) int { return cmp.Compare(ranks[b], ranks[a]) })
	return list
}

// candidates returns the servers that accept a new mailbox, sorted.
func (p *placer) candidates(srv *Server, name mbox.Name) []mbox.Server {
	cfg := srv.cfg.Placement
	list := slices.Clone(cfg.Servers)
	if i := slices.IndexFunc(cfg.Rules, func(r Rule) bool { return r.fits(name) }); i >= 0 {
		list = slices.Clone(cfg.Rules[i].Servers)
	} else if cfg.Policy == Explicit {
		return nil
	} else if len(list) == 0 {
		list = srv.servers()
	}
	list = slices.DeleteFunc(list, func(server mbox.Server) bool { return cfg.Accept != nil && !cfg.Accept(server) })
	slices.Sort(list)
	if cfg.FullAt > 0 {
		roomy := slices.DeleteFunc(slices.Clone(list), func(server mbox.Server) bool {
			s := p.of(server)
			return s.total > 0 && 100*(1-s.share()) >= float64(cfg.FullAt)
		})
		if len(roomy) > 0 {
			return roomy
		}
	}
	return list
}

// rank returns how good a place is, larger being better; nil for turns.
func (p *placer) rank(srv *Server, cfg Placement, list []mbox.Server) func(mbox.Server) float64 {
	// The largest of u^(1/weight), u at random, is each one's in proportion to its weight.
	draw := func(weight float64) float64 {
		if weight <= 0 {
			return 0
		}
		return math.Pow(rand.Float64(), 1/weight)
	}
	switch cfg.Policy {
	case LeastMailboxes:
		count := srv.follow.population()
		return func(server mbox.Server) float64 { return -float64(count[server]) }
	case Random:
		return func(mbox.Server) float64 { return rand.Float64() }
	case Weighted:
		return func(server mbox.Server) float64 {
			weight, ok := cfg.Weights[server]
			if !ok {
				weight = 1
			}
			return draw(float64(weight))
		}
	case FreeSpace:
		return func(server mbox.Server) float64 { return p.of(server).free }
	case FreePercent:
		return func(server mbox.Server) float64 { return p.of(server).share() }
	case FreePercentRand:
		return func(server mbox.Server) float64 { return draw(p.of(server).share()) }
	case FreePercentDelta:
		least := 1.0
		for _, server := range list {
			least = min(least, p.of(server).share())
		}
		// Cyrus: half a percent more, so that the fullest has its chance too.
		return func(server mbox.Server) float64 { return draw(p.of(server).share() - least + 0.005) }
	}
	return nil
}

func (p *placer) of(server mbox.Server) space {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.space[server]
}

func (p *placer) learn(server mbox.Server, s space) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.space == nil {
		p.space = make(map[mbox.Server]space)
	}
	p.space[server] = s
}

func (s space) share() float64 {
	if s.total <= 0 {
		return 0
	}
	return s.free / s.total
}

// spaceEntry is where Cyrus tells the room of all partitions together, as "free;total" in KiB.
const spaceEntry = "/shared/vendor/cmu/cyrus-imapd/freespace/total"

// look asks a server for its free space.
func (p *placer) look(so *signOn) {
	untagged, err := so.ask(`GETMETADATA "" ` + spaceEntry)
	if err != nil {
		return
	}
	for _, line := range untagged {
		_, value, ok := strings.Cut(line, spaceEntry)
		if !ok {
			continue
		}
		free, total, ok := strings.Cut(strings.Trim(value, `" ()`), ";")
		f, err1 := strconv.ParseFloat(free, 64)
		t, err2 := strconv.ParseFloat(total, 64)
		if ok && err1 == nil && err2 == nil {
			p.learn(so.server, space{f, t})
		}
	}
}

// autocreate gives a user who has no INBOX anywhere one, by our own identity, where the placement
// policy says. That it fails does not keep the user from logging in.
//
// Cyrus: autocreate_quota, whose other effects the backend brings about at the user's first login.
func (s *session) autocreate() {
	if !s.cfg.Autocreate || s.admin {
		return
	}
	if _, err := s.find(s.view.Inbox()); err != error(errNoMailbox) {
		return
	}
	name, ok := s.cfg.Namespace.View("", true, false).External(s.view.Inbox())
	if !ok {
		return
	}
	for _, server := range s.srv.place.order(s.srv, s.view.Inbox()) {
		asked, err := s.srv.createAt(s.ctx, server, string(name))
		s.log().Info("mailbox of a new user", "mailbox", s.view.Inbox(), "backend", server, "err", err)
		if asked {
			break // whatever came of it: there must not be two
		}
	}
	s.mapChanged()
}

// createAt creates a mailbox under our own identity; asked tells whether it came to that.
func (srv *Server) createAt(ctx context.Context, server mbox.Server, name string) (asked bool, err error) {
	so, err := srv.connect(ctx, server, "", "")
	if err != nil {
		return false, err
	}
	defer so.nc.Close()
	so.nc.SetDeadline(time.Now().Add(srv.cfg.Limits.BackendReply))
	_, err = so.ask("CREATE " + astring(name))
	return true, err
}
