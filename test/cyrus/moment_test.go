//go:build cyrus

package cyrus

import (
	"strings"
	"sync"

	"murder/test/dialogue"
)

// when lets do decide about one moment of every dialogue: the line in which a client sends the
// command verb.
func when(verb string, do func() dialogue.Fate) func(dialogue.Line) dialogue.Fate {
	return func(l dialogue.Line) dialogue.Fate {
		if f := strings.Fields(l.Text); l.Client && len(f) > 1 && f[1] == verb {
			return do()
		}
		return dialogue.Pass
	}
}

// answered is when for the line in which the server answers OK.
func answered(verb string, do func() dialogue.Fate) func(dialogue.Line) dialogue.Fate {
	var mu sync.Mutex
	open := map[int]string{} // tags, by connection
	return func(l dialogue.Line) dialogue.Fate {
		f := strings.Fields(l.Text)
		if len(f) < 2 {
			return dialogue.Pass
		}
		mu.Lock()
		tag := open[l.Conn]
		if l.Client && f[1] == verb {
			open[l.Conn] = f[0]
		}
		mu.Unlock()
		if !l.Client && tag == f[0] && f[1] == "OK" {
			return do()
		}
		return dialogue.Pass
	}
}

// always is a decision that needs no thought.
func always(fate dialogue.Fate) func() dialogue.Fate {
	return func() dialogue.Fate { return fate }
}

// once does something at the first such moment, while the line waits, and lets all lines pass.
func once(do func()) func() dialogue.Fate {
	var first sync.Once
	return func() dialogue.Fate {
		first.Do(do)
		return dialogue.Pass
	}
}
