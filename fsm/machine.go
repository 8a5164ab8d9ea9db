package fsm

import (
	"fmt"

	"murder/internal/mbox"
)

// Machine is one copy of the replicated state. It is not safe for concurrent use; a View is. The
// owner applies entries, calls View in the same goroutine, and publishes what it got.
//
// Views and Snapshots share memory with the machine: what has been overwritten since they were taken
// is freed only when they are dropped.
type Machine struct {
	digest *digester

	index          uint64
	clock          uint64 // lease clock
	clusterVersion uint32
	nextProposer   uint64
	nextEvent      uint64

	mail       mailmap
	holds      table[mbox.Name, Hold]
	leases     table[string, Lease]
	tombstones table[mbox.Name, Tombstone]
	cuts       table[mbox.Name, CutRename]
	conflicts  table[string, Conflict]
	departures table[string, Departure]
	events     table[uint64, Event]
	nodes      table[string, Node]
	settings   table[string, Setting]
	tokens     table[string, Token]
	proposers  proposers

	sessionHolds *index // session, name
	deadlines    *index // deadline, session
	tombAge      *index // index, name
	cutAge       *index // index, name
	departureAge *index // index, key
	eventNames   *index // name, number
	refusals     *index // number

	// What follows is not replicated.
	view        *View
	near        mbox.Session // of the last mailbox write, for sharing its strings
	checkpoints [checkpointsToKeep]checkpoint
	compared    Comparison
	changes     []mbox.Change // of the batch that is being applied
}

type checkpoint struct {
	index  uint64
	digest Digest
}

// Comparison is what came of a Checkpoint: the digests of this copy and of the leader at a log index.
type Comparison struct {
	Index       uint64
	Own, Leader Digest
}

// New returns the machine that has applied nothing.
func New() *Machine {
	d := new(digester)
	return &Machine{
		digest:         d,
		clusterVersion: 1,
		mail:           newMailmap(d),
		holds:          newTable[mbox.Name](d, sectionHolds, appendHold),
		leases:         newTable[string](d, sectionLeases, appendLease),
		tombstones:     newTable[mbox.Name](d, sectionTombstones, appendTombstone),
		cuts:           newTable[mbox.Name](d, sectionCuts, appendCut),
		conflicts:      newTable[string](d, sectionConflicts, appendConflict),
		departures:     newTable[string](d, sectionDepartures, appendDeparture),
		events:         newTable[uint64](d, sectionEvents, appendEvent),
		nodes:          newTable[string](d, sectionNodes, appendNode),
		settings:       newTable[string](d, sectionSettings, appendSetting),
		tokens:         newTable[string](d, sectionTokens, appendToken),
		proposers:      newProposers(d),
		sessionHolds:   newIndex(),
		deadlines:      newIndex(),
		tombAge:        newIndex(),
		cutAge:         newIndex(),
		departureAge:   newIndex(),
		eventNames:     newIndex(),
		refusals:       newIndex(),
	}
}

// Index is the log index of the last entry applied, or the snapshot's.
func (m *Machine) Index() uint64 { return m.index }

// Clock is the lease clock in milliseconds of leadership. A new leader stamps its batches with what
// the clock was after its first own entry, plus the time since then.
func (m *Machine) Clock() uint64 { return m.clock }

// ClusterVersion is what the machine has been told to speak. One above MaxVersion means that this
// binary must not go on.
func (m *Machine) ClusterVersion() uint32 { return m.clusterVersion }

// Digest is the digest of everything replicated, at Index.
func (m *Machine) Digest() Digest {
	d := m.digest.Digest
	h := append([]byte(digestKey), byte(sectionHeader))
	for _, v := range [...]uint64{m.clock, uint64(m.clusterVersion), m.nextProposer, m.nextEvent} {
		h = appendUint(h, v)
	}
	d.toggle(h)
	return d
}

// Compared returns the last Checkpoint that could be compared with this copy; the Index is 0 if none could.
// Which of the two is right the machine cannot know.
func (m *Machine) Compared() Comparison { return m.compared }

// Apply applies one log entry, made by AppendBatch. Refusals are results. An error is fatal: the
// copy must not go on. It is a *CorruptError or an *UnknownCommandError, and the machine is as it
// was before.
func (m *Machine) Apply(index uint64, entry []byte) (Applied, error) {
	clock, envelopes, err := decodeBatch(entry, &m.near)
	if err == nil && index <= m.index {
		err = corrupt("its turn was before %d", m.index)
	}
	if err != nil {
		switch err := err.(type) {
		case *CorruptError:
			err.Index = index
		case *UnknownCommandError:
			err.Index = index
		}
		return Applied{}, err
	}
	m.index, m.clock, m.view, m.changes = index, max(m.clock, clock), nil, nil
	results, idle := make([]Result, len(envelopes)), true
	for i, e := range envelopes {
		_, empty := e.Command.(Empty)
		idle = idle && empty
		if results[i] = m.applyOnce(e); !results[i].Repeat {
			results[i].Index = index
		}
	}
	m.checkpoints[index%checkpointsToKeep] = checkpoint{index, m.Digest()}
	return Applied{Results: results, Changes: m.changes, Idle: idle}, nil
}

// View returns the state after the last entry. At most one copy is taken for each entry, and only if
// somebody asks.
func (m *Machine) View() *View {
	if m.view == nil {
		m.view = &View{
			index: m.index, clock: m.clock, clusterVersion: m.clusterVersion, digest: m.Digest(),
			mailboxes:  m.mail.tree.Copy(),
			holds:      m.holds.rows.Copy(),
			leases:     m.leases.rows.Copy(),
			tombstones: m.tombstones.rows.Copy(),
			cuts:       m.cuts.rows.Copy(),
			conflicts:  m.conflicts.rows.Copy(),
			departures: m.departures.rows.Copy(),
			events:     m.events.rows.Copy(),
			eventNames: m.eventNames.Copy(),
			nodes:      m.nodes.rows.Copy(),
			settings:   m.settings.rows.Copy(),
			tokens:     m.tokens.rows.Copy(),
		}
	}
	return m.view
}

// do applies a command that has not been applied before.
func (m *Machine) do(c Command) Result {
	if info := commands[c.kind()]; info.since > m.clusterVersion {
		return Result{Refusal: RefusedNotYet, Detail: fmt.Sprintf("cluster version %d", info.since)}
	}
	switch c := c.(type) {
	case MailboxWrite:
		return Result{Verdict: m.write(c)}
	case Empty:
	case NewTerm:
		m.restartLeases()
	case Tick:
		m.tick(c.At)
	case Checkpoint:
		m.compare(c)
	case RegisterNode:
		return m.registerNode(c.Node)
	case SetNodeState:
		return m.setNodeState(c)
	case SetNodeAttribute:
		return m.setNodeAttribute(c)
	case RemoveNode:
		return m.removeNode(c.ID)
	case RegisterProposer:
		return m.registerProposer(c)
	case SetSetting:
		return m.setSetting(c)
	case SetClusterVersion:
		return m.setClusterVersion(c.Version)
	case PutToken:
		return m.putToken(c)
	case UseToken:
		return m.useToken(c)
	case RevokeToken:
		return m.revokeToken(c.ID)
	case Resolve:
		return m.resolve(c)
	}
	return Result{}
}

// compare looks whether this copy was what the leader had. After a restore the digests of the
// entries before are not known, and nothing is compared.
func (m *Machine) compare(c Checkpoint) {
	own := m.checkpoints[c.Index%checkpointsToKeep]
	if own.index == c.Index && c.Index != 0 {
		m.compared = Comparison{Index: c.Index, Own: own.digest, Leader: c.Digest}
	}
}
