package cluster

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The library leaves the futures of entries unanswered that were in its channel when it stopped.
		goleak.IgnoreAnyFunction("github.com/hashicorp/raft.(*deferError).Error"),
		// Shutdown waits for no probe that is under way: it ends by itself, when its time is over.
		goleak.IgnoreTopFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}
