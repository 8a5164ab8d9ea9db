package fsm

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"murder/internal/mbox"
)

// model is the map as one would first write it down: plain maps, no history, nothing derived.
type model struct {
	version  uint32
	clock    uint64
	records  map[mbox.Name]mbox.Entry // without Index
	owner    map[mbox.Name]string     // session of a name that is being created
	buried   map[mbox.Name]grave
	sessions map[string]*modelSession
}

type grave struct {
	mbox.Entry
	clock   uint64
	session string
}

type modelSession struct {
	deadline uint64
	ended    bool
	deleted  mbox.Name
	direct   bool
}

func newModel() *model {
	return &model{records: map[mbox.Name]mbox.Entry{}, owner: map[mbox.Name]string{}, buried: map[mbox.Name]grave{},
		sessions: map[string]*modelSession{}}
}

func (m *model) erase(n mbox.Name, session string) {
	e := m.records[n]
	delete(m.records, n)
	delete(m.owner, n)
	if _, buried := m.buried[n]; !buried || e.State == mbox.Active || e.Transfer {
		m.buried[n] = grave{e, m.clock, session}
	}
}

func (m *model) activate(e mbox.Entry) {
	m.records[e.Name] = e
	delete(m.owner, e.Name)
	delete(m.buried, e.Name)
}

func (m *model) holds(session string) (names []mbox.Name) {
	for n, s := range m.owner {
		if s == session {
			names = append(names, n)
		}
	}
	return names
}

func (m *model) forgetIdle() {
	for id, s := range m.sessions {
		if s.deleted == "" && len(m.holds(id)) == 0 {
			delete(m.sessions, id)
		}
	}
}

// decide is the reply matrix, by rows.
func (m *model) decide(w mbox.Write) (out mbox.Outcome) {
	e := m.records[w.Name]
	mine := e.Location.Server() == w.Location.Server()
	has := func(f mbox.SessionFlags) bool { return w.By.Flags&f != 0 }
	next := mbox.Entry{Name: w.Name, Location: w.Location, ACL: w.ACL, State: mbox.Active}
	switch w.Kind {
	case mbox.Delete:
		g, buried := m.buried[w.Name]
		switch {
		case e.State == mbox.Absent && has(mbox.DenyUnknownDelete) && !(buried && slices.Contains(w.By.Servers, g.Location.Server())):
			return mbox.NotExist
		case e.State == mbox.Absent:
			return mbox.Done
		case len(w.By.Servers) == 0 && has(mbox.DenyUnboundDelete):
			return mbox.Unbound
		case len(w.By.Servers) > 0 && !slices.Contains(w.By.Servers, e.Location.Server()) && !has(mbox.Permissive):
			return mbox.Conflict
		case e.Transfer && has(mbox.Sync):
			return mbox.Done
		}
		m.erase(w.Name, w.By.ID)
		return mbox.Done
	case mbox.Reserve:
		switch {
		case e.State == mbox.Absent:
		case !mine:
			return mbox.Exists
		case e.State == mbox.Active:
			p, q := e.Location.Partition(), w.Location.Partition()
			if p == q || p == "" || q == "" {
				return mbox.Done
			}
			return mbox.Exists
		case e.Transfer:
			return mbox.Done
		}
		m.records[w.Name] = mbox.Entry{Name: w.Name, Location: w.Location, State: mbox.Reserved}
		m.owner[w.Name] = w.By.ID
		return mbox.Done
	case mbox.Activate:
		g, buried := m.buried[w.Name]
		switch {
		case e.State == mbox.Absent && buried && w.ACL == "" && w.Location.Partition() == "" &&
			g.Location.Server() == w.Location.Server() && m.clock-g.clock < phantomTime:
			return mbox.Done
		case m.version > 1 && e.State == mbox.Absent && buried && (g.State == mbox.Active || g.Transfer) &&
			g.Location.Server() != w.Location.Server() && has(mbox.Unified) && has(mbox.Sync) && !has(mbox.Permissive):
			return mbox.Outdated
		case e.State == mbox.Absent || mine || has(mbox.Takeover|mbox.Permissive):
		case e.Transfer && has(mbox.Sync) && !has(mbox.CompleteTransfer):
			return mbox.InTransfer
		case e.Transfer:
		default:
			return mbox.Conflict
		}
		m.activate(next)
		return mbox.Done
	default: // Deactivate
		switch {
		case e.State == mbox.Absent:
			return mbox.NotExist
		case e.State == mbox.Reserved && e.Transfer && mine:
			return mbox.Done
		case e.State == mbox.Reserved:
			return mbox.NotActive
		case !mine && !has(mbox.Permissive):
			return mbox.Conflict
		}
		m.records[w.Name] = mbox.Entry{Name: w.Name, Location: w.Location, State: mbox.Reserved, Transfer: true}
		return mbox.Done
	}
}

func (m *model) write(w mbox.Write) mbox.Outcome {
	if w.Kind == mbox.EndSession {
		s := m.sessions[w.By.ID]
		if m.version > 1 && w.By.Flags&mbox.RenameRefused != 0 {
			m.heal(w.Name, w.By.ID, "")
			if s != nil && s.direct && s.deleted == w.Name {
				s.deleted, s.direct = "", false
			}
		} else if s != nil {
			s.ended, s.deleted, s.direct = true, "", false
			s.deadline = min(s.deadline, m.clock+leaseAfterEnd)
		}
		m.forgetIdle()
		return mbox.Done
	}
	was := m.records[w.Name].State
	out := m.decide(w)
	s := m.sessions[w.By.ID]
	if s == nil {
		s = &modelSession{}
		m.sessions[w.By.ID] = s
	}
	deleted, direct := s.deleted, s.direct
	s.deleted, s.direct = "", false
	switch {
	case w.Kind == mbox.Delete && was == mbox.Active && out == mbox.Done && w.By.Flags&mbox.Sync == 0:
		s.deleted, s.direct = w.Name, true
	case w.Kind == mbox.Reserve && out == mbox.Done:
		s.deleted = deleted
	case w.Kind == mbox.Reserve && direct:
		m.heal(deleted, w.By.ID, w.Location.Server())
	case w.Kind == mbox.Activate && out != mbox.Done && m.version > 1:
		s.deleted = deleted
	}
	if deadline := m.clock + leaseTime; !s.ended && deadline >= s.deadline+leaseGranularity {
		s.deadline = deadline
	}
	m.forgetIdle()
	return out
}

// heal brings back what a session deleted, of a server if one is named.
func (m *model) heal(n mbox.Name, session string, server mbox.Server) {
	g := m.buried[n]
	if m.records[n].State == mbox.Absent && g.session == session && g.State == mbox.Active &&
		(server == "" || g.Location.Server() == server) {
		m.activate(g.Entry)
	}
}

func (m *model) tick() {
	for id, s := range m.sessions {
		if s.deadline <= m.clock {
			for _, n := range m.holds(id) {
				m.erase(n, id)
			}
			delete(m.sessions, id)
		}
	}
	m.forgetIdle()
}

func drawWrite(t *rapid.T) mbox.Write {
	servers := []mbox.Server{"a", "b"}
	w := mbox.Write{
		Kind: rapid.SampledFrom([]mbox.Kind{mbox.Reserve, mbox.Activate, mbox.Deactivate, mbox.Delete, mbox.Delete, mbox.EndSession}).Draw(t, "kind"),
		Name: rapid.SampledFrom([]mbox.Name{"user.a", "user.a.b", "user.a-b", "user.a b", "d!user.a", "user.c"}).Draw(t, "name"),
	}
	who := rapid.SampledFrom(servers).Draw(t, "server")
	w.By = mbox.Session{ID: string(who) + rapid.SampledFrom([]string{"1", "2"}).Draw(t, "session"), Identity: "be-" + string(who)}
	if rapid.IntRange(0, 9).Draw(t, "bound") > 0 {
		w.By.Servers = []mbox.Server{who}
	}
	if rapid.IntRange(0, 3).Draw(t, "flagged") == 0 {
		w.By.Flags = mbox.SessionFlags(rapid.IntRange(0, 511).Draw(t, "flags"))
	}
	switch w.Kind {
	case mbox.Reserve, mbox.Activate, mbox.Deactivate:
		w.Location = mbox.At(who, rapid.SampledFrom([]string{"p", "p", "q", ""}).Draw(t, "partition"))
	case mbox.EndSession:
		w.Name = ""
	}
	if w.Kind == mbox.Activate {
		w.ACL = rapid.SampledFrom([]mbox.ACL{"", "a\tlrs\t", "a@d\tlrs\t", "b\tl\t"}).Draw(t, "acl")
	}
	return w
}

// Random commands in random batches, some of them sent again, with restores in between: the machine
// agrees with the model, with its own changes, and with a second copy of itself.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := newModel()
		one, two := New(), New()
		replayed := map[mbox.Name]mbox.Entry{}
		index, clock, sequence, lowWater := uint64(0), uint64(0), uint64(0), uint64(1)
		outcomes := map[uint64]mbox.Outcome{}
		sent := map[uint64]Envelope{}
		apply := func(envelopes []Envelope) Applied {
			index++
			entry := AppendBatch(nil, clock, envelopes)
			a, err := one.Apply(index, entry)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := two.Apply(index, entry); err != nil {
				t.Fatal(err)
			}
			for _, c := range a.Changes {
				if c.Old != replayed[c.Name].Location || c.Index != index {
					t.Fatalf("change %+v of %+v", c, replayed[c.Name])
				}
				if replayed[c.Name] = c.Entry; c.State == mbox.Absent {
					delete(replayed, c.Name)
				}
			}
			return a
		}
		p := apply([]Envelope{{Command: RegisterProposer{"n", "x"}}}).Results[0]
		if want.version = rapid.Uint32Range(1, MaxVersion).Draw(t, "version"); want.version > 1 {
			apply([]Envelope{{Command: SetClusterVersion{want.version}}})
		}
		for range rapid.IntRange(1, 40).Draw(t, "batches") {
			clock += uint64(rapid.SampledFrom([]int{0, 10, 999, 20_000, 70_000}).Draw(t, "pass"))
			want.clock = clock
			var envelopes []Envelope
			var expect []mbox.Outcome
			for range rapid.IntRange(1, 6).Draw(t, "commands") {
				switch what := rapid.IntRange(0, 11).Draw(t, "what"); {
				case what == 0 && sequence > 0: // again
					again := rapid.Uint64Range(1, sequence).Draw(t, "again")
					envelopes = append(envelopes, sent[again])
					if again < lowWater {
						expect = append(expect, mbox.NotProcessed)
					} else {
						expect = append(expect, outcomes[again])
					}
				case what == 1:
					want.tick()
					envelopes, expect = append(envelopes, Envelope{Command: Tick{}}), append(expect, mbox.Done)
				case what == 2 && rapid.IntRange(0, 5).Draw(t, "term") == 0:
					for _, s := range want.sessions {
						s.deadline = max(s.deadline, clock+leaseTime)
					}
					envelopes, expect = append(envelopes, Envelope{Command: NewTerm{Term: 2}}), append(expect, mbox.Done)
				default:
					w := drawWrite(t)
					sequence++
					lowWater = max(lowWater, rapid.Uint64Range(lowWater, sequence).Draw(t, "low-water"))
					e := Envelope{p.Proposer, p.Incarnation, sequence, lowWater, MailboxWrite{Write: w, At: int64(clock)}}
					sent[sequence], outcomes[sequence] = e, want.write(w)
					envelopes, expect = append(envelopes, e), append(expect, outcomes[sequence])
				}
			}
			for i, r := range apply(envelopes).Results {
				if r.Outcome != expect[i] {
					t.Fatalf("%+v: got %v, want %v", envelopes[i].Command, r.Outcome, expect[i])
				}
			}
			got := map[mbox.Name]mbox.Entry{}
			view := one.View()
			view.Ascend("", func(e mbox.Entry) bool {
				got[e.Name] = e
				return true
			})
			if !maps.Equal(got, replayed) {
				t.Fatalf("view %v, changes add up to %v", got, replayed)
			}
			for n, e := range got {
				e.Index = 0
				got[n] = e
			}
			for n, e := range want.records {
				e.Index = 0
				want.records[n] = e
			}
			if !maps.Equal(got, want.records) {
				t.Fatalf("machine has %v, model %v", got, want.records)
			}
			for n, owner := range want.owner {
				if h, ok := view.Hold(n); !ok || h.Transfer || h.Session != owner {
					t.Fatalf("hold of %s is %+v, want that of %s", n, h, owner)
				}
			}
			if view.Leases() != len(want.sessions) {
				t.Fatalf("%d leases, want %d", view.Leases(), len(want.sessions))
			}
			if rapid.IntRange(0, 4).Draw(t, "restore") == 0 {
				var b bytes.Buffer
				if _, err := one.Snapshot().WriteTo(&b); err != nil {
					t.Fatal(err)
				}
				m, err := ReadSnapshot(&b)
				if err != nil {
					t.Fatal(err)
				}
				Diff(view, m.View(), func(c mbox.Change) bool {
					t.Fatalf("restored copy differs: %+v", c)
					return false
				})
				one = m
			}
			if one.Digest() != two.Digest() {
				t.Fatalf("digests %v and %v", one.Digest(), two.Digest())
			}
		}
		var a, b bytes.Buffer
		if _, err := one.Snapshot().WriteTo(&a); err != nil {
			t.Fatal(err)
		}
		if _, err := two.Snapshot().WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a.Bytes(), b.Bytes()) {
			t.Fatal("snapshots differ")
		}
	})
}
