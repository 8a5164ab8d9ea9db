package cluster

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// voterRig is a reader whose voters answer when a test says so.
type voterRig struct {
	*reader
	questions chan *question
}

type question struct {
	voter  raft.ServerID
	answer chan bool
}

func newVoterRig(voters ...raft.ServerID) *voterRig {
	r := &voterRig{&reader{}, make(chan *question, 100)}
	r.voters = func() (others []raft.Server, self bool) {
		for _, id := range voters {
			others = append(others, raft.Server{ID: id})
		}
		return others, true
	}
	r.leads = func() bool { return true }
	// Like a link, it gives up when the round is over; unlike one, a test may hold on.
	r.ask = func(ctx context.Context, s raft.Server) bool {
		q := &question{s.ID, make(chan bool, 1)}
		r.questions <- q
		return <-q.answer
	}
	return r
}

// round begins a round, and returns its result.
func (r *voterRig) round(ctx context.Context) <-chan bool {
	done := make(chan bool, 1)
	go func() { done <- r.confirm(ctx) }()
	return done
}

// answer answers all questions of a round until that has a result.
func (r *voterRig) answer(done <-chan bool, yes func(voter raft.ServerID) bool) bool {
	for {
		select {
		case q := <-r.questions:
			q.answer <- yes(q.voter)
		case ok := <-done:
			return ok
		}
	}
}

// end answers what has not been answered and counts no more.
func (r *voterRig) end() {
	over := make(chan bool)
	go func() {
		r.wg.Wait()
		close(over)
	}()
	r.answer(over, func(raft.ServerID) bool { return false })
}

func TestMajorityConfirms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		answers []bool // of the voters besides this node
		want    bool
	}{
		{nil, true}, {[]bool{true}, true}, {[]bool{false}, false},
		{[]bool{true, false}, true}, {[]bool{false, true}, true}, {[]bool{false, false}, false},
		{[]bool{true, false, false}, false}, {[]bool{true, true, false}, true},
		{[]bool{true, true, false, false}, true}, {[]bool{true, false, false, false}, false},
		{[]bool{false, false, true, true}, true}, {[]bool{false, true, false, false}, false},
	} {
		ids := []raft.ServerID{"a", "b", "c", "d"}[:len(c.answers)]
		for _, patience := range []time.Duration{0, time.Hour} {
			r := newVoterRig(ids...)
			r.patience = patience
			got := r.answer(r.round(testContext(t)), func(voter raft.ServerID) bool { return c.answers[voter[0]-'a'] })
			if got != c.want {
				t.Errorf("answers %v, patience %v: %v", c.answers, patience, got)
			}
			r.end()
		}
	}
}

// Nobody is asked for more than the majority needs, unless those who are asked do not answer.
func TestConfirmAsksFew(t *testing.T) {
	t.Parallel()
	r := newVoterRig("a", "b", "c", "d")
	r.patience = time.Hour
	asked := map[raft.ServerID]int{}
	note := func(voter raft.ServerID) bool { asked[voter]++; return true }
	for range 10 {
		if !r.answer(r.round(testContext(t)), note) {
			t.Fatal("not confirmed")
		}
		r.end()
	}
	if len(asked) != 2 {
		t.Errorf("asked %v", asked)
	}
	// Those two fall silent: the others are asked instead, and come first from then on.
	r.patience = time.Millisecond
	done := r.round(testContext(t))
	silent := []*question{<-r.questions, <-r.questions}
	others := map[raft.ServerID]int{}
	note = func(voter raft.ServerID) bool { others[voter]++; return true }
	if !r.answer(done, note) {
		t.Fatal("not confirmed")
	}
	r.patience = time.Hour
	if !r.answer(r.round(testContext(t)), note) {
		t.Fatal("not confirmed")
	}
	for _, q := range silent {
		if others[q.voter] > 0 {
			t.Errorf("%s, which is silent, was asked once more", q.voter)
		}
		q.answer <- true
	}
	if len(others) != 2 {
		t.Errorf("asked %v", others)
	}
	r.end()
}

// The answer to a question of an earlier round says nothing about this one.
func TestLateAnswerConfirmsNothing(t *testing.T) {
	t.Parallel()
	r := newVoterRig("a", "b")
	ctx, cancel := context.WithCancel(testContext(t))
	first := r.round(ctx)
	late := []*question{<-r.questions, <-r.questions}
	cancel()
	if <-first {
		t.Fatal("confirmed without an answer")
	}
	second := r.round(testContext(t))
	for _, q := range late {
		q.answer <- true
	}
	// Both owe an answer, or, if that came just before, they are asked once more.
	if r.answer(second, func(raft.ServerID) bool { return false }) {
		t.Error("an answer of the first round confirmed the second")
	}
	r.end()
	if !r.answer(r.round(testContext(t)), func(voter raft.ServerID) bool { return voter == "b" }) {
		t.Error("answers of its own did not confirm a round")
	}
	r.end()
}

// A node that is no voter, or leads no more, confirms nothing, whatever the others say.
func TestFormerLeaderConfirmsNothing(t *testing.T) {
	t.Parallel()
	r := newVoterRig("a")
	r.leads = func() bool { return false }
	if r.answer(r.round(testContext(t)), func(raft.ServerID) bool { return true }) {
		t.Error("confirmed by a node that does not lead")
	}
	r.voters = func() ([]raft.Server, bool) { return nil, false }
	if r.confirm(context.Background()) {
		t.Error("confirmed by a node that is no voter")
	}
}
