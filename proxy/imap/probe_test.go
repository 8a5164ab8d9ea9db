package imap

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"murder/internal/backend"
	"murder/internal/mbox"
)

// probing is a rig that looks at its backends each minute. The first time b1 hangs at the login, b2 at the logout.
var probing = rigOptions{config: []func(*Config){func(c *Config) {
	c.Placement.Policy, c.ProbeInterval = FreeSpace, time.Minute
}}, stubs: func(b *stub) {
	b.free = "5000;9000"
	b.fail(map[mbox.Server]string{"b1": "AUTHENTICATE", "b2": "LOGOUT"}[b.name], "hang")
}}

// A backend that hangs keeps nobody from hearing of the others, of which no more than some are visited at a time.
func TestProbesSideBySide(t *testing.T) {
	inVirtualTime(t, probing, func(t *testing.T, r *rig) {
		takes(t, atOnce, atOnce, "to hear of the other", func() {
			synctest.Wait()
			if r.srv.caps.of("b2") == nil || r.srv.place.of("b2") != (space{5000, 9000}) {
				t.Error("one backend waits for another")
			}
		})

		set := r.srv.cfg.Backends.(*backend.Set)
		servers := map[mbox.Server]backend.Settings{"b1": set.Settings("b1"), "b2": set.Settings("b2")}
		for i := range 2 * probesAtOnce {
			host := fmt.Sprintf("127.0.1.%d", i)
			servers[mbox.Server(host)] = backend.Settings{Host: host, TLS: backend.NoTLS}
			r.net.dark[host+":143"] = true
		}
		set.Update(backend.Settings{}, servers)
		given := func() int { return strings.Count(r.log.String(), "backend not probed") }
		time.Sleep(r.srv.cfg.Limits.BackendLogin + r.srv.cfg.ProbeInterval) // the next round begins
		before := given()
		time.Sleep(5 * time.Second) // so long a connection is tried, and not twice as long
		if n := given() - before; n != probesAtOnce {
			t.Errorf("%d were visited at a time", n)
		}
	})
}

// At the end nobody waits for them.
func TestProbesAtShutdown(t *testing.T) {
	inVirtualTime(t, probing, func(t *testing.T, r *rig) {
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		takes(t, atOnce, atOnce, "the end", func() { r.srv.Shutdown(ctx) })
	})
}
