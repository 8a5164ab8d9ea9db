package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"murder/cluster/admin"
	"murder/fsm"
	"murder/internal/mbox"
)

const (
	transferAlarm    = 15 * time.Minute // of leadership
	unconfirmedAlarm = 24 * time.Hour
	lagAlarm         = 1000 // entries
	certAlarm        = 14 * 24 * time.Hour
	maxFindings      = 20 // of one kind; the rest is counted
)

// Findings lists what needs a human, as this node sees it: in the map, in the cluster, and in what
// the other nodes say of themselves.
func (n *Node) Findings(ctx context.Context) []admin.Finding {
	f := finder{list: []admin.Finding{}, now: n.now()}
	s := n.Status(ctx)
	f.cluster(s)
	if s.ClusterID != "" {
		f.records(n.State())
	}
	for _, m := range s.Nodes {
		for _, own := range m.Findings {
			own.Detail = "on " + m.ID + ": " + own.Detail
			f.list = append(f.list, own)
		}
	}
	slices.SortStableFunc(f.list, func(a, b admin.Finding) int { return strings.Compare(b.Level, a.Level) })
	return f.list
}

type finder struct {
	list []admin.Finding
	now  time.Time
}

func (f *finder) problem(kind, subject, next, format string, args ...any) {
	f.list = append(f.list, admin.Finding{Level: admin.LevelProblem, Kind: kind, Subject: subject, Next: next, Detail: fmt.Sprintf(format, args...)})
}

func (f *finder) notice(kind, subject, next, format string, args ...any) {
	f.list = append(f.list, admin.Finding{Level: admin.LevelNotice, Kind: kind, Subject: subject, Next: next, Detail: fmt.Sprintf(format, args...)})
}

func (f *finder) cluster(s admin.Status) {
	if s.ClusterID == "" {
		f.problem("node", s.Node, "murderctl cluster join TOKEN", "belongs to no cluster yet")
		return
	}
	switch {
	case s.VotersUp < s.Quorum:
		f.problem("quorum", "", "start the others; if they are lost for good: murderd recover", "%d of %d voters answer and %d are needed: nothing can be changed", s.VotersUp, s.Voters, s.Quorum)
	case s.Leader == "":
		f.problem("quorum", "", "murderctl cluster status", "no leader is known")
	case s.Voters == 1:
		f.problem("quorum", "", "murderctl cluster token create --role coordinator --uses 2", "only one coordinator votes: when it is lost, so is the map")
	case s.VotersUp == s.Quorum:
		f.problem("quorum", "", "murderctl cluster status", "%d of %d voters answer: one more loss stops all changes", s.VotersUp, s.Voters)
	}
	versions := map[string][]string{}
	for _, m := range s.Nodes {
		f.member(m, s)
		if m.Version != "" {
			versions[m.Version] = append(versions[m.Version], m.ID)
		}
	}
	if len(versions) > 1 {
		var parts []string
		for v, ids := range versions {
			parts = append(parts, v+" on "+strings.Join(ids, ", "))
		}
		slices.Sort(parts)
		f.notice("version", "", "murderctl cluster status", "the nodes run different versions: %s", strings.Join(parts, "; "))
	}
}

func (f *finder) member(m admin.NodeStatus, s admin.Status) {
	if m.Error != "" && m.Refused != "" {
		f.problem("node", m.ID, "murderctl member remove "+m.ID+", then empty its data directory and join it again", "the cluster does not want it: %s", m.Refused)
		return
	}
	if m.Error != "" {
		f.problem("node", m.ID, "on it: systemctl status murderd; gone for good: murderctl member remove "+m.ID, "does not answer: %s", m.Error)
		return
	}
	anew := "on it: stop murderd, empty its data directory, start it and join again"
	switch {
	case m.Refused != "":
		f.problem("node", m.ID, anew, "the cluster does not want it: %s", m.Refused)
	case m.Diverged:
		f.problem("node", m.ID, divergedHint, "its copy differs from that of a majority of the voters")
	case m.Disputed:
		f.problem("node", m.ID, "start all voters, then murderctl cluster verify", "its copy differs from the leader's, and it is not known which is right")
	case !m.Synced:
		f.problem("node", m.ID, "murderctl node status "+m.ID, "has no complete copy of the map yet")
	case m.Lag > lagAlarm:
		f.problem("node", m.ID, "murderctl node status "+m.ID, "is %d entries behind", m.Lag)
	}
	if left := m.CertExpires.Sub(f.now); !m.CertExpires.IsZero() && left < certAlarm {
		f.problem("certificate", m.ID, "murderctl node status "+m.ID, "its certificate towards the other nodes ends in %d days and was not renewed", int(left.Hours()/24))
	}
	if m.MaxCluster != 0 && m.MaxCluster < s.Version {
		f.problem("version", m.ID, "install a newer murderd there", "speaks cluster version %d, and the cluster is at %d", m.MaxCluster, s.Version)
	}
	if m.State == "draining" || m.Draining {
		f.notice("node", m.ID, "murderctl node status "+m.ID, "is draining: it takes no clients")
	}
}

// few reports the first rows of a kind, and how many there are of the others.
func (f *finder) few(kind, next string, total int) {
	if more := total - maxFindings; more > 0 {
		f.problem(kind, "", next, "and %d more", more)
	}
}

func (f *finder) records(v *fsm.View) {
	total := 0
	for c := range v.Conflicts {
		if total++; total <= maxFindings {
			f.problem("conflict", string(c.Name), fmt.Sprintf("murderctl mailbox resolve %s --holder SERVER", c.Name),
				"held by %s, claimed %d times by %s", c.Holder, c.Count, c.Claimant)
		}
	}
	f.few("conflict", "murderctl mailbox conflicts", total)
	total = 0
	for c := range v.CutRenames {
		if total++; total <= maxFindings {
			t, _ := v.Tombstone(c.Name)
			f.problem("cut-rename", string(c.Name), fmt.Sprintf("murderctl mailbox restore %s, or murderctl mailbox resolve %s --deleted", c.Name, c.Name),
				"was deleted at %s by a session that broke off; if it was being renamed, the mailbox is still there", t.Location)
		}
	}
	f.few("cut-rename", "murderctl mailbox history NAME", total)
	f.transfers(v)
	f.unconfirmed(v)
}

func (f *finder) transfers(v *fsm.View) {
	total := 0
	for h := range v.Holds {
		r := reservationOf(v, h)
		age := time.Duration(r.AgeSeconds) * time.Second
		if !h.Transfer || age < transferAlarm && !h.SourceDropped {
			continue
		}
		if total++; total > maxFindings {
			continue
		}
		next := fmt.Sprintf("murderctl mailbox resolve %s --holder SERVER", h.Name)
		if h.SourceDropped {
			f.problem("transfer", r.Name, next, "%s dropped its copy in the middle of a move: mail for it waits", h.Location.Server())
		} else {
			f.problem("transfer", r.Name, next, "is being moved from %s since %v: mail for it waits", h.Location.Server(), age)
		}
	}
	f.few("transfer", "murderctl mailbox reservations", total)
}

// unconfirmed finds records whose last change may have been made in vain: the backend did not hear of
// its success, and then undoes what it did.
func (f *finder) unconfirmed(v *fsm.View) {
	last := map[mbox.Name]fsm.Event{}
	for e := range eventsOf(v) {
		if e.Kind != fsm.EventConflict { // what others wanted changes nothing
			last[e.Name] = e
		}
	}
	var names []mbox.Name
	for name, e := range last {
		have, ok := v.Get(name)
		if e.Kind == fsm.EventUnconfirmed && ok && have.State == mbox.Active && f.now.Sub(time.Unix(e.At, 0)) < unconfirmedAlarm {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for i, name := range names {
		if i == maxFindings {
			break
		}
		e := last[name]
		f.problem("unconfirmed", string(name), fmt.Sprintf("look on %s; if it is not there: murderctl mailbox remove %s", e.Location.Server(), name),
			"%s broke off before it heard that the record at %s was made, and may have undone its part", e.Identity, e.Location)
	}
	f.few("unconfirmed", "murderctl mailbox history NAME", len(names))
}

func eventsOf(v *fsm.View) func(func(fsm.Event) bool) {
	return func(yield func(fsm.Event) bool) { v.Events(0, yield) }
}
