//go:build cyrus

package cyrus

import (
	"strings"
	"testing"
)

// M5. mupdatetest signs on with every mechanism and works by hand, with quoted strings.
func TestMupdatetest(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{Backends: 1})
	be1 := m.Node("be1")
	ok(t, signOn(t, be1, m.Admin()), "CREATE user.u1")
	for _, addr := range m.nodes {
		host, port, _ := strings.Cut(addr, ":")
		for _, mech := range []string{"PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256", ""} {
			args := []string{"-a", "murder", "-u", "murder", "-w", m.Password(), "-p", port, host}
			if mech != "" {
				args = append([]string{"-m", mech}, args...)
			}
			out, err := be1.ExecInput("X1 FIND \"user.u1\"\r\nX2 LIST\r\nX3 NOOP\r\nX4 LOGOUT\r\n", "mupdatetest", args...)
			for _, want := range []string{"Authenticated.", "X1 MAILBOX", "X1 OK", "X2 MAILBOX", "X2 OK", "X3 OK", "X4 "} {
				if !strings.Contains(out, want) {
					t.Errorf("mupdatetest %q at %s: no %q (%v)\n%s", mech, addr, want, err, out)
					break
				}
			}
		}
		out, _ := be1.ExecInput("", "mupdatetest", "-m", "PLAIN", "-a", "murder", "-u", "murder", "-w", "wrong", "-p", port, host)
		if !strings.Contains(out, "Authentication failed") {
			t.Errorf("a wrong password at %s:\n%s", addr, out)
		}
	}
}
