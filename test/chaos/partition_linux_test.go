package chaos

import (
	"context"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"murder/test/harness"
)

func (w *cables) awaitReady(id string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		s, err := w.Status(ctx, id)
		if err == nil && s.Leader != "" {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			w.t.Fatalf("%s is not ready: %v", id, err)
		}
	}
}

// leader asks the coordinators who leads until two say the same: one may be cut off.
func (w *cables) leader() string {
	w.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		said := map[string]int{}
		for _, id := range w.Coordinators() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			s, err := w.Status(ctx, id)
			cancel()
			if err == nil && s.Leader != "" {
				if said[s.Leader]++; said[s.Leader] == 2 {
					return s.Leader
				}
			}
		}
	}
	w.t.Fatal("no leader")
	return ""
}

// Packets are lost, one way and both ways, between real processes in networks of their own.
func TestPartitions(t *testing.T) {
	long(t)
	if !alone(t, "ip", "nft", "nsenter") {
		return
	}
	sh(t, 0, "ip link set lo up")
	w := separate(t, harness.Start(t, harness.Options{}))
	k := begin(t, w.Cluster)
	others := func(l string) []string {
		return slices.DeleteFunc(w.Coordinators(), func(id string) bool { return id == l })
	}
	const d = 2 * time.Second
	for _, f := range []struct {
		what string
		cut  func(l string)
	}{
		{"leader cut off from all", func(l string) { w.cutBoth(l, append(others(l), "f1")...) }},
		{"leader reaches only the learner", func(l string) { w.cutBoth(l, others(l)...) }},
		{"leader is not heard", func(l string) { w.cut(l, others(l)...) }},
		{"leader hears nobody", func(l string) { w.cut(others(l)[0], l); w.cut(others(l)[1], l) }},
		{"leader and one follower apart", func(l string) { w.cutBoth(l, others(l)[0]) }},
		{"followers apart", func(l string) { w.cutBoth(others(l)[0], others(l)[1]) }},
		{"learner cut off", func(string) { w.cutBoth("f1", w.Coordinators()...) }},
		{"all apart", func(l string) { w.cutBoth(l, others(l)...); w.cutBoth(others(l)[0], others(l)[1]) }},
		{"leader paused while cut off", func(l string) {
			w.cutBoth(l, others(l)...)
			syscall.Kill(w.pids[l], syscall.SIGSTOP)
		}},
	} {
		l := w.leader()
		f.cut(l)
		k.during(f.what+" ("+l+")", d)
		w.heal()
		syscall.Kill(w.pids[l], syscall.SIGCONT)
		k.during("healed", d/2)
	}
	if err := exec.Command("tc", "qdisc", "add", "dev", "br0", "root", "netem", "delay", "1ms").Run(); err != nil {
		t.Log("no netem in this kernel: delay and loss are not tried")
	} else {
		sh(t, 0, "tc qdisc del dev br0 root")
		for _, pid := range w.pids {
			sh(t, pid, "tc qdisc add dev eth0 root netem delay 20ms 10ms loss 3%")
		}
		k.during("delay and loss", 2*d)
		for _, pid := range w.pids {
			sh(t, pid, "tc qdisc del dev eth0 root")
		}
	}
	k.during("the end", d)
	k.end()
	w.AwaitEqual(t)
}
