//go:build cyrus

package imapcyrus

import (
	"testing"

	"murder/test/imapline"
)

// Users whom only Cyrus knows log in through a real saslauthd on one frontend, and by their own backend's
// word on the other.
func TestSources(t *testing.T) {
	login := func(t *testing.T, addr, user, password, want string) {
		t.Helper()
		c, err := imapline.Dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		r, err := c.Do("LOGIN %s %s", user, password)
		if err != nil || !like(want, r.Status+" "+r.Text) {
			t.Errorf("%s on %s: %+v %v, want %q", user, addr, r, err, want)
		}
	}
	for name, addr := range map[string]string{"saslauthd": world.F1, "pass-through": world.F2} {
		t.Run(name, func(t *testing.T) {
			for _, user := range []string{"gina", "hugo"} {
				login(t, addr, user, Password, "OK ...")
				login(t, addr, user, "wrong", "NO [AUTHENTICATIONFAILED] Authentication failed.")
			}
			login(t, addr, "nobody", Password, "NO [AUTHENTICATIONFAILED] Authentication failed.")
			login(t, addr, "alice", "wrong", "NO [AUTHENTICATIONFAILED] Authentication failed.") // the file has the first word
			g := dial(t, addr, "gina")
			g.append("INBOX", message("by "+name))
			g.ok("SELECT INBOX")
			h := dial(t, addr, "hugo")
			h.do("NO [NONEXISTENT] ...", "SELECT INBOX")
		})
	}
	t.Run("saslauthd is down", func(t *testing.T) {
		world.StopSaslauthd()
		login(t, world.F1, "gina", Password, "NO [UNAVAILABLE] ...")
		login(t, world.F1, "alice", Password, "OK ...")
		if err := world.StartSaslauthd(); err != nil {
			t.Fatal(err)
		}
		login(t, world.F1, "gina", Password, "OK ...")
	})
}
