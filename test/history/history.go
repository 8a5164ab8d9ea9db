// Package history records what clients of the mailbox map saw, and tells whether one map that
// everybody looks at could have shown it to them: whether the history is linearizable.
//
// Names are independent of each other, so each has a history of its own. A write whose answer never
// came stays open to the end: it may have happened at any time after it was sent, or not at all.
package history

import (
	"errors"
	"fmt"
	"math"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"murder/internal/mbox"
)

// checkLimit bounds the check of a history, which is exponential in what is open at one time.
const checkLimit = 60 * time.Second

// ErrUndecided says that a history is neither good nor bad as far as could be found out.
var ErrUndecided = errors.New("history was not decided")

// Kind is what a client did.
type Kind uint8

const (
	Read   Kind = iota // Value is what it saw, "" for no mailbox
	Set                // Value is what it wrote
	Delete             // Absent if the answer was that there is no such mailbox
)

// Op is one operation of a client.
type Op struct {
	Name   mbox.Name
	Kind   Kind
	Value  string
	Absent bool
	Open   bool   // no answer came
	By     string // for people: where it was sent
}

func (o Op) String() string {
	s := fmt.Sprintf("%s at %s", o.Name, o.By)
	switch o.Kind {
	case Read:
		s = fmt.Sprintf("read %s: %q", s, o.Value)
	case Set:
		s = fmt.Sprintf("set %s: %q", s, o.Value)
	case Delete:
		s = fmt.Sprintf("delete %s: absent %v", s, o.Absent)
	}
	if o.Open {
		s += ", no answer"
	}
	return s
}

// History is what all clients did. It is safe for concurrent use.
type History struct {
	begun time.Time

	mu  sync.Mutex
	ops []porcupine.Operation
}

// New starts a history.
func New() *History { return &History{begun: time.Now()} }

// Now is the time to give to Add as the begin of an operation, taken before it is sent.
func (h *History) Now() time.Duration { return time.Since(h.begun) }

// Add notes an operation that has just come to its end, with an error or without. What certainly has
// not happened, and a read without an answer, is forgotten.
func (h *History) Add(client int, sent time.Duration, op Op, err error) {
	if errors.Is(err, mbox.ErrUnavailable) || (err != nil && op.Kind == Read) {
		return
	}
	back := int64(h.Now())
	if err != nil {
		op.Open, back = true, math.MaxInt64
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: op, Output: op, Call: int64(sent), Return: back})
}

// Count says how many operations of each kind are in the history, and how many writes are open.
func (h *History) Count() (reads, writes, open int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range h.ops {
		op := o.Input.(Op)
		switch {
		case op.Kind == Read:
			reads++
		case op.Open:
			open++
		default:
			writes++
		}
	}
	return reads, writes, open
}

// Check returns an error with the history of the first name that no single map can have shown.
func (h *History) Check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	byName := map[mbox.Name][]porcupine.Operation{}
	for _, o := range h.ops {
		name := o.Input.(Op).Name
		byName[name] = append(byName[name], o)
	}
	for name, ops := range byName {
		switch porcupine.CheckOperationsTimeout(model, ops, checkLimit) {
		case porcupine.Illegal:
			return fmt.Errorf("history of %s is not linearizable, and was to here:\n%s", name, tell(ops))
		case porcupine.Unknown:
			return fmt.Errorf("%w within %s: that of %s, %d operations", ErrUndecided, checkLimit, name, len(ops))
		}
	}
	return nil
}

// model is one mailbox: its state is the value of its record, "" for none.
var model = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		op := input.(Op)
		switch op.Kind {
		case Set:
			return true, op.Value
		case Delete:
			// Who has deleted a mailbox is told again that it is done; only others hear of its absence.
			return op.Open || !op.Absent || state == "", ""
		}
		return state == op.Value, state
	},
}

// tell shows where a history goes wrong: the last operations before the first that may not be.
func tell(ops []porcupine.Operation) string {
	sort.Slice(ops, func(i, j int) bool { return ops[i].Return < ops[j].Return })
	good := sort.Search(len(ops), func(n int) bool {
		return porcupine.CheckOperationsTimeout(model, until(ops, n+1), checkLimit) == porcupine.Illegal
	})
	const shown = 30
	var b strings.Builder
	for i, o := range ops {
		// What is open from long before may have its part in it.
		if open := o.Return == math.MaxInt64; open && o.Call > ops[min(good, len(ops)-1)].Return || !open && (i < good-shown || i > good) {
			continue
		}
		back := "       -"
		if o.Return != math.MaxInt64 {
			back = fmt.Sprintf("%8.3f", time.Duration(o.Return).Seconds())
		}
		fmt.Fprintf(&b, "%8.3f %s %s\n", time.Duration(o.Call).Seconds(), back, o.Input)
	}
	return b.String()
}

// until is the history when the first n operations had come back; the others were sent or not.
func until(ops []porcupine.Operation, n int) []porcupine.Operation {
	if n >= len(ops) {
		return ops
	}
	part := append([]porcupine.Operation(nil), ops[:n]...)
	for _, o := range ops[n:] {
		if op := o.Input.(Op); op.Kind != Read && o.Call <= ops[n-1].Return {
			op.Open = true
			o.Input, o.Output, o.Return = op, op, math.MaxInt64
			part = append(part, o)
		}
	}
	return part
}
