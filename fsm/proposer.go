package fsm

import (
	"cmp"
	"slices"

	"github.com/tidwall/btree"

	"murder/internal/mbox"
)

// proposers is the dedupe table: for each process of a node that proposes, the results that it may
// still ask for.
type proposers struct {
	rows   *btree.BTreeG[*incarnation] // by proposer and incarnation
	digest *digester
}

type incarnation struct {
	proposer, incarnation uint64
	node, nonce           string
	alive                 uint64 // lease clock, kept to a minute
	lowWater              uint64
	results               []remembered // by sequence
}

// remembered is the part of a Result that is kept.
type remembered struct {
	sequence uint64
	verdict  mbox.Verdict
	refusal  Refusal
	detail   string
}

// resultRow is a remembered result as hashed: it must not be mistaken for another incarnation's.
type resultRow struct {
	*incarnation
	remembered
}

func newProposers(d *digester) proposers {
	return proposers{
		rows: btree.NewBTreeGOptions(func(a, b *incarnation) bool {
			if a.proposer != b.proposer {
				return a.proposer < b.proposer
			}
			return a.incarnation < b.incarnation
		}, btree.Options{NoLocks: true}),
		digest: d,
	}
}

// clone is what a snapshot keeps while the machine goes on.
func (p *proposers) clone() []incarnation {
	var all []incarnation
	p.rows.Scan(func(inc *incarnation) bool {
		c := *inc
		c.results = slices.Clone(inc.results)
		all = append(all, c)
		return true
	})
	return all
}

func (p *proposers) toggle(inc *incarnation) {
	toggle(p.digest, sectionProposers, appendIncarnation, inc)
}

func (p *proposers) toggleResult(inc *incarnation, r remembered) {
	toggle(p.digest, sectionResults, appendResultRow, resultRow{inc, r})
}

func appendIncarnation(dst []byte, inc *incarnation) []byte {
	dst = appendUint(dst, inc.proposer)
	dst = appendUint(dst, inc.incarnation)
	dst = appendString(dst, inc.node)
	dst = appendString(dst, inc.nonce)
	dst = appendUint(dst, inc.alive)
	return appendUint(dst, inc.lowWater)
}

func readIncarnation(r *reader) *incarnation {
	return &incarnation{proposer: r.uint(), incarnation: r.uint(), node: r.string(), nonce: r.string(),
		alive: r.uint(), lowWater: r.uint()}
}

func appendRemembered(dst []byte, r remembered) []byte {
	dst = appendUint(dst, r.sequence)
	dst = append(dst, byte(r.verdict.Outcome), byte(r.refusal))
	dst = appendString(dst, r.verdict.Holder)
	dst = appendUint(dst, r.verdict.Index)
	return appendString(dst, r.detail)
}

func readRemembered(r *reader) remembered {
	var x remembered
	x.sequence = r.uint()
	x.verdict.Outcome, x.refusal = mbox.Outcome(r.byte()), Refusal(r.byte())
	x.verdict.Holder = mbox.Location(r.string())
	x.verdict.Index = r.uint()
	x.detail = r.string()
	return x
}

func appendResultRow(dst []byte, row resultRow) []byte {
	dst = appendUint(dst, row.proposer)
	dst = appendUint(dst, row.incarnation.incarnation)
	return appendRemembered(dst, row.remembered)
}

// applyOnce applies a command, or answers a repeated one from the table. The answer to a command of
// an unknown incarnation, or below its low-water mark, is mbox.NotProcessed: whether it was applied
// before cannot be told any more, and it is not applied now.
func (m *Machine) applyOnce(e decoded) Result {
	if e.Command == nil {
		return Result{} // skipped; see flagIgnorable
	}
	if k := e.Command.kind(); e.Proposer == 0 || k == kindRegisterProposer || commands[k].ignorable {
		return m.do(e.Command)
	}
	key := &incarnation{proposer: e.Proposer, incarnation: e.Incarnation}
	inc, ok := m.proposers.rows.Get(key)
	if !ok {
		return Result{Verdict: mbox.Verdict{Outcome: mbox.NotProcessed}}
	}
	m.proposers.heard(inc, m.clock, e.LowWater)
	if e.Sequence < inc.lowWater {
		return Result{Verdict: mbox.Verdict{Outcome: mbox.NotProcessed}}
	}
	if at, found := inc.find(e.Sequence); found {
		r := inc.results[at]
		return Result{Verdict: r.verdict, Refusal: r.refusal, Detail: r.detail, Repeat: true}
	}
	result := m.do(e.Command)
	// The command may have removed the node that proposed it.
	if inc, ok = m.proposers.rows.Get(key); ok {
		kept := remembered{sequence: e.Sequence, verdict: result.Verdict, refusal: result.Refusal, detail: result.Detail}
		kept.verdict.Index = m.index
		m.proposers.remember(inc, kept)
	}
	return result
}

// heard notes a sign of life and forgets the results that are settled.
func (p *proposers) heard(inc *incarnation, clock, lowWater uint64) {
	late := clock >= inc.alive+aliveGranularity
	if !late && lowWater <= inc.lowWater {
		return
	}
	p.toggle(inc)
	if late {
		inc.alive = clock
	}
	inc.lowWater = max(inc.lowWater, lowWater)
	p.toggle(inc)
	settled, _ := inc.find(inc.lowWater)
	p.forget(inc, settled)
}

func (p *proposers) remember(inc *incarnation, r remembered) {
	at, _ := inc.find(r.sequence)
	inc.results = slices.Insert(inc.results, at, r)
	p.toggleResult(inc, r)
	if len(inc.results) > maxResults {
		p.toggle(inc)
		inc.lowWater = inc.results[0].sequence + 1
		p.toggle(inc)
		p.forget(inc, 1)
	}
}

// forget drops the n lowest results.
func (p *proposers) forget(inc *incarnation, n int) {
	for _, r := range inc.results[:n] {
		p.toggleResult(inc, r)
	}
	clear(inc.results[:n])
	inc.results = inc.results[n:]
}

// find returns the place of a sequence among the results.
func (inc *incarnation) find(sequence uint64) (int, bool) {
	return slices.BinarySearchFunc(inc.results, sequence, func(r remembered, s uint64) int {
		return cmp.Compare(r.sequence, s)
	})
}

// registerProposer gives a process its pair. No pair is ever given twice: a node that is known gets
// the next incarnation, any other a new proposer number. From cluster version 2 on a node that has many loses
// its oldest: one that is started again and again fills the table for nobody else.
func (m *Machine) registerProposer(c RegisterProposer) Result {
	if c.NodeID == "" || len(c.Nonce) > maxNonce {
		return Result{Refusal: RefusedUnknown, Detail: "node id or nonce"}
	}
	m.dropSilent()
	var last, same *incarnation
	m.proposers.rows.Scan(func(inc *incarnation) bool {
		if inc.node == c.NodeID {
			if last = inc; inc.nonce == c.Nonce {
				same = inc
			}
		}
		return true
	})
	if same == nil {
		if last != nil && m.clusterVersion >= versionNodeBound {
			m.dropIncarnations(func(inc *incarnation) bool {
				return inc.node == c.NodeID && inc.incarnation+maxIncarnationsOfNode <= last.incarnation+1
			})
		}
		if m.proposers.rows.Len() >= maxIncarnations {
			return Result{Refusal: RefusedFull, Detail: "too many incarnations"}
		}
		same = &incarnation{node: c.NodeID, nonce: c.Nonce, alive: m.clock, lowWater: 1}
		if last != nil {
			same.proposer, same.incarnation = last.proposer, last.incarnation+1
		} else {
			m.nextProposer++
			same.proposer, same.incarnation = m.nextProposer, 1
		}
		m.proposers.rows.Set(same)
		m.proposers.toggle(same)
	}
	return Result{Proposer: same.proposer, Incarnation: same.incarnation}
}

// dropSilent forgets the incarnations that have not been heard of for an hour of lease clock.
func (m *Machine) dropSilent() {
	m.dropIncarnations(func(inc *incarnation) bool { return m.clock >= inc.alive+silentTime })
}

func (m *Machine) dropIncarnations(gone func(*incarnation) bool) {
	var drop []*incarnation
	m.proposers.rows.Scan(func(inc *incarnation) bool {
		if gone(inc) {
			drop = append(drop, inc)
		}
		return true
	})
	for _, inc := range drop {
		m.proposers.forget(inc, len(inc.results))
		m.proposers.toggle(inc)
		m.proposers.rows.Delete(inc)
	}
}
