package mupdate

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"

	"murder/internal/atomicfile"
	"murder/internal/mbox"
)

// shrinkGuard compares each full dump with what this node last showed anybody, also in an earlier process. A
// copy that has lost half of its records and does not know them as deleted was damaged or replaced.
type shrinkGuard struct {
	file string // where the number is kept, "" nowhere
	log  *slog.Logger

	mu         sync.Mutex
	last, kept int
	saving     bool // one writes the file at a time, until it holds what is right
}

const guardFrom = 100 // records; below, half is soon reached by honest work

// open takes up what an earlier process kept. Without it the first dump is trusted.
func (g *shrinkGuard) open(file string, log *slog.Logger) {
	g.file, g.log = file, log
	if file == "" {
		return
	}
	text, err := os.ReadFile(file)
	if err == nil {
		g.last, err = strconv.Atoi(strings.TrimSpace(string(text)))
		g.kept = g.last
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("it is not known how much the last dump held: the next one may be of any size", "err", err)
	}
}

func (g *shrinkGuard) check(view mbox.View) (last int, ok bool) {
	g.mu.Lock()
	last = g.last
	g.mu.Unlock()
	least := last / 2
	if last >= guardFrom && view.Len() < least {
		if gone, _ := deleted(view); view.Len()+len(gone) < least {
			return last, false
		}
	}
	g.set(view.Len())
	return view.Len(), true
}

// set is told of every change that is shown, so it writes only when the number is another by far. While one call
// writes, the others leave theirs to it: shows need not wait for a disk.
func (g *shrinkGuard) set(records int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = records
	if g.saving {
		return
	}
	g.saving = true
	for g.file != "" && max(g.last-g.kept, g.kept-g.last) > max(g.kept/8, guardFrom/2) {
		g.kept = g.last
		number := g.kept
		g.mu.Unlock()
		g.save(number)
		g.mu.Lock()
	}
	g.saving = false
}

func (g *shrinkGuard) save(records int) {
	_, err := atomicfile.Write(g.file, 0o600, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, records)
		return err
	})
	if err != nil {
		g.log.Warn("the size of the map shown to frontends was not kept for the next start", "err", err)
	}
}
