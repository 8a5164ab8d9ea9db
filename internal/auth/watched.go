package auth

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// recheck is how long a file is believed not to have changed.
const recheck = time.Second

// watched is a file that is read again when it changes. It looks at the file at most once a second, when
// it is asked something; a file that cannot be read or parsed leaves what is known as it was and is
// logged once.
type watched struct {
	path string
	what string // it holds, for messages
	log  *slog.Logger
	load func(r io.Reader, info os.FileInfo) error

	checked atomic.Int64 // unix nanoseconds of the last look

	mu   sync.Mutex // held while reading
	seen os.FileInfo
}

// Reload reads the file now. On error what is known stays as it was.
func (w *watched) Reload() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.read()
}

func (w *watched) read() error {
	r, err := os.Open(w.path)
	if err != nil {
		w.seen = nil
		return fmt.Errorf("reading %s: %w", w.what, err)
	}
	defer r.Close()
	info, err := r.Stat()
	if err == nil {
		w.seen = info
		err = w.load(r, info)
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", w.what, err)
	}
	return nil
}

// look reads the file again if it has changed since the last look, which was a while ago.
func (w *watched) look() {
	now, last := time.Now().UnixNano(), w.checked.Load()
	if now-last < int64(recheck) || !w.checked.CompareAndSwap(last, now) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	info, err := os.Stat(w.path)
	switch {
	case err != nil && w.seen == nil:
		return // known to be gone
	case err == nil && w.seen != nil && os.SameFile(info, w.seen) && info.ModTime().Equal(w.seen.ModTime()) && info.Size() == w.seen.Size():
		return
	}
	if err := w.read(); err != nil {
		w.log.Error(w.what+" file not taken over", "file", w.path, "err", err)
		return
	}
	w.log.Info(w.what+" file read again", "file", w.path)
}
