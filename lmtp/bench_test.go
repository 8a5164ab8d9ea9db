package lmtp

import (
	"io"
	"log/slog"
	"testing"
)

// What does a small message for one recipient cost in this process, with the client and the backend in it?
func BenchmarkDeliver(b *testing.B) {
	be1 := newStub(b, "be1")
	h := newHost(b, newDirectory(active("user.alice", "be1")), []*stub{be1}, func(c *hostConfig) {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	})
	m := h.session(b)
	b.ReportAllocs()
	for b.Loop() {
		m.deliver(testMessage, "alice")
		be1.forget()
	}
}
