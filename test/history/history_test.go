package history

import (
	"errors"
	"testing"

	"github.com/anishathalye/porcupine"

	"murder/internal/mbox"
)

// put adds an operation with its times in seconds; back 0 leaves it open.
func (h *History) put(call, back int, op Op) {
	op.Name = "user.a"
	o := porcupine.Operation{Call: int64(call), Return: int64(back)}
	if back == 0 {
		op.Open, o.Return = true, 1<<62
	}
	o.Input, o.Output = op, op
	h.ops = append(h.ops, o)
}

func TestCheck(t *testing.T) {
	set := func(v string) Op { return Op{Kind: Set, Value: v} }
	read := func(v string) Op { return Op{Kind: Read, Value: v} }
	for name, c := range map[string]struct {
		good  bool
		build func(h *History)
	}{
		"in turn":              {true, func(h *History) { h.put(1, 2, set("a")); h.put(3, 4, read("a")) }},
		"old value":            {false, func(h *History) { h.put(1, 2, set("a")); h.put(3, 4, set("b")); h.put(5, 6, read("a")) }},
		"both at once":         {true, func(h *History) { h.put(1, 4, set("a")); h.put(2, 3, read("")) }},
		"back in time":         {false, func(h *History) { h.put(1, 9, set("a")); h.put(2, 3, read("a")); h.put(4, 5, read("")) }},
		"open, happened late":  {true, func(h *History) { h.put(1, 0, set("a")); h.put(2, 3, read("")); h.put(4, 5, read("a")) }},
		"open, never happened": {true, func(h *History) { h.put(1, 0, set("a")); h.put(2, 3, read("")) }},
		"open, happened twice": {false, func(h *History) {
			h.put(1, 0, set("a"))
			h.put(2, 3, read("a"))
			h.put(4, 5, set("b"))
			h.put(6, 7, read("b"))
			h.put(8, 9, read("a"))
		}},
		"not found, and there": {false, func(h *History) { h.put(1, 2, set("a")); h.put(3, 4, Op{Kind: Delete, Absent: true}) }},
		"deleted and not found": {true, func(h *History) {
			h.put(1, 2, set("a"))
			h.put(3, 4, Op{Kind: Delete})
			h.put(5, 6, Op{Kind: Delete, Absent: true})
		}},
		"read before it was set": {false, func(h *History) { h.put(3, 4, set("a")); h.put(1, 2, read("a")) }},
	} {
		h := New()
		c.build(h)
		if err := h.Check(); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAdd(t *testing.T) {
	h := New()
	h.Add(0, h.Now(), Op{Name: "user.a", Kind: Set, Value: "a"}, mbox.ErrUnavailable)
	h.Add(0, h.Now(), Op{Name: "user.a", Kind: Read}, errors.New("connection lost"))
	h.Add(0, h.Now(), Op{Name: "user.a", Kind: Set, Value: "b"}, mbox.ErrUnknownOutcome)
	h.Add(0, h.Now(), Op{Name: "user.a", Kind: Read}, nil)
	for at := h.Now(); h.Now() == at; { // the clock goes on
	}
	h.Add(0, h.Now(), Op{Name: "user.a", Kind: Read, Value: "b"}, nil)
	if r, w, o := h.Count(); r != 2 || w != 0 || o != 1 {
		t.Errorf("%d reads, %d writes, %d open", r, w, o)
	}
	if err := h.Check(); err != nil {
		t.Error(err)
	}
}
