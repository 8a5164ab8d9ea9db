//go:build cyrus

package cyrus

import (
	"context"
	"testing"
	"time"

	"murder/test/ledger"
)

// The ledger itself, at Cyrus's own master, which keeps what it has promised when it is killed and
// started again.
func TestLedgerAtCyrusMaster(t *testing.T) {
	t.Parallel()
	r := Start(t, Options{Master: true, Backends: 1, NoPush: true})
	m := r.Node("mupdate")
	addr := m.Addr(MupdatePort)
	l := ledger.Start(4, []string{addr}, r.Admin(), r.Password())
	defer l.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := l.Await(ctx, 200); err != nil {
		t.Fatal(err)
	}
	m.Kill()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	if err := l.Await(ctx, 200); err != nil {
		t.Fatal(err)
	}
	l.Stop()
	acked, unknown, gap := l.Summary()
	t.Logf("%d writes acknowledged, %d without an answer, longest pause %s", acked, unknown, gap.Round(time.Millisecond))
	if err := l.Check(ctx, addr); err != nil {
		t.Error(err)
	}
}
