package lmtp

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"
)

// errNoSpace means that no more messages can be taken.
var errNoSpace = errors.New("no space for messages")

// store bounds what all messages under way take together.
type store struct {
	dir     string
	limits  Limits
	metrics *metrics
	memory  atomic.Int64
	files   atomic.Int64
	looked  atomic.Int64 // when there was room in the directory, in unix nanoseconds
}

// lookEvery is how long a look at the free space holds.
const lookEvery = time.Second

func newStore(dir string, limits Limits, m *metrics) *store {
	return &store{dir: dir, limits: limits, metrics: m}
}

// room reports whether another message may begin.
func (st *store) room() error {
	if st.files.Load() >= st.limits.Spool {
		return errNoSpace
	}
	now := time.Now().UnixNano()
	if st.limits.SpoolFloor < 0 || now-st.looked.Load() < int64(lookEvery) {
		return nil
	}
	if free, err := freeSpace(st.dir); err != nil {
		return fmt.Errorf("%w: %w", errNoSpace, err)
	} else if free < st.limits.SpoolFloor {
		return errNoSpace
	}
	st.looked.Store(now)
	return nil
}

// take reserves n octets of a budget.
func take(budget *atomic.Int64, n, limit int64) bool {
	if budget.Add(n) > limit {
		budget.Add(-n)
		return false
	}
	return true
}

// spool is one message: in memory while it is small, then in a file that has no name any more. It is
// written by one goroutine; once it is complete, any number may read it.
type spool struct {
	store *store
	mem   []byte
	file  *os.File
	size  int64
}

// Write implements io.Writer. Its errors wrap errNoSpace if the space is used up.
func (sp *spool) Write(p []byte) (int, error) {
	if sp.file == nil {
		if sp.grow(len(p)) {
			sp.mem = append(sp.mem, p...)
			sp.size += int64(len(p))
			return len(p), nil
		}
		if err := sp.toFile(); err != nil {
			return 0, err
		}
	}
	return sp.append(p)
}

// grow makes room for n more octets in memory, if that is allowed.
func (sp *spool) grow(n int) bool {
	need, have := len(sp.mem)+n, cap(sp.mem)
	switch {
	case need > sp.store.limits.SpoolMemory:
		return false
	case need <= have:
		return true
	}
	want := min(max(need, 2*have, 4096), max(need, sp.store.limits.SpoolMemory))
	if !take(&sp.store.memory, int64(want-have), sp.store.limits.Memory) {
		return false
	}
	sp.store.metrics.spool.WithLabelValues("memory").Add(float64(want - have))
	mem := make([]byte, len(sp.mem), want)
	copy(mem, sp.mem)
	sp.mem = mem
	return true
}

// toFile moves the message to a file.
func (sp *spool) toFile() error {
	file, err := os.CreateTemp(sp.store.dir, "murder-lmtp-")
	if err != nil {
		return fmt.Errorf("creating a spool file: %w", noSpace(err))
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return fmt.Errorf("hiding a spool file: %w", err)
	}
	sp.file = file
	mem := sp.mem
	sp.size = 0
	sp.freeMemory()
	_, err = sp.append(mem)
	return err
}

func (sp *spool) append(p []byte) (int, error) {
	if !take(&sp.store.files, int64(len(p)), sp.store.limits.Spool) {
		return 0, errNoSpace
	}
	sp.size += int64(len(p))
	sp.store.metrics.spool.WithLabelValues("file").Add(float64(len(p)))
	n, err := sp.file.Write(p)
	return n, noSpace(err)
}

// noSpace makes a full disk tell as errNoSpace.
func noSpace(err error) error {
	if err != nil && isNoSpace(err) {
		return fmt.Errorf("%w: %w", errNoSpace, err)
	}
	return err
}

func (sp *spool) freeMemory() {
	n := int64(cap(sp.mem))
	sp.mem = nil
	sp.store.memory.Add(-n)
	sp.store.metrics.spool.WithLabelValues("memory").Sub(float64(n))
}

// reader returns the whole message from its beginning.
func (sp *spool) reader() io.ReaderAt {
	if sp.file != nil {
		return sp.file
	}
	return memory(sp.mem)
}

// memory reads octets like a file.
type memory []byte

func (m memory) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(p, m[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// close gives back what the message took.
func (sp *spool) close() {
	sp.freeMemory()
	if sp.file != nil {
		sp.store.files.Add(-sp.size)
		sp.store.metrics.spool.WithLabelValues("file").Sub(float64(sp.size))
		sp.file.Close()
		sp.file = nil
	}
}
