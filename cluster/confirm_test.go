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
func (r *voterRig) round(limit time.Duration) <-chan bool {
	done := make(chan bool, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		done <- r.confirm(ctx)
	}()
	return done
}

func TestMajorityConfirms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		answers []bool // of the voters besides this node
		want    bool
	}{
		{nil, true}, {[]bool{true}, true}, {[]bool{false}, false},
		{[]bool{true, false}, true}, {[]bool{false, false}, false},
		{[]bool{true, false, false}, false}, {[]bool{true, true, false}, true},
		{[]bool{true, true, false, false}, true}, {[]bool{true, false, false, false}, false},
	} {
		ids := []raft.ServerID{"a", "b", "c", "d"}[:len(c.answers)]
		r := newVoterRig(ids...)
		done := r.round(10 * time.Second)
		for range ids {
			q := <-r.questions
			q.answer <- c.answers[q.voter[0]-'a']
		}
		if got := <-done; got != c.want {
			t.Errorf("answers %v: %v", c.answers, got)
		}
	}
}

// The answer to a question of an earlier round says nothing about this one.
func TestLateAnswerConfirmsNothing(t *testing.T) {
	t.Parallel()
	r := newVoterRig("a", "b")
	first := r.round(time.Millisecond)
	late := []*question{<-r.questions, <-r.questions}
	if <-first {
		t.Fatal("confirmed without an answer")
	}
	second := r.round(10 * time.Second)
	for _, q := range late {
		q.answer <- true
	}
	// Both owe an answer, or, if that came just before, they are asked once more.
	timeout := time.After(100 * time.Millisecond)
	for open := true; open; {
		select {
		case q := <-r.questions:
			q.answer <- false
		case ok := <-second:
			if ok {
				t.Error("an answer of the first round confirmed the second")
			}
			open = false
		case <-timeout:
			t.Fatal("no end")
		}
	}
	r.wg.Wait()
	third := r.round(10 * time.Second)
	(<-r.questions).answer <- true
	(<-r.questions).answer <- false
	if !<-third {
		t.Error("answers of its own did not confirm a round")
	}
	r.wg.Wait()
}

// A node that is no voter, or leads no more, confirms nothing, whatever the others say.
func TestFormerLeaderConfirmsNothing(t *testing.T) {
	t.Parallel()
	r := newVoterRig("a")
	r.leads = func() bool { return false }
	done := r.round(10 * time.Second)
	(<-r.questions).answer <- true
	if <-done {
		t.Error("confirmed by a node that does not lead")
	}
	r.voters = func() ([]raft.Server, bool) { return nil, false }
	if r.confirm(context.Background()) {
		t.Error("confirmed by a node that is no voter")
	}
}
