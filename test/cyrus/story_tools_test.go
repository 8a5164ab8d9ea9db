//go:build cyrus

package cyrus

import (
	"net"
	"os/exec"
	"strings"
	"testing"
)

// COMPRESS with programs that are not ours: zlib itself by way of Python, which keeps its window from flush to
// flush, and mupdatetest.
func TestCompression(t *testing.T) {
	t.Parallel()
	m := newMurder(t, Options{Backends: 1})
	m.ours(t)
	be1 := m.Node("be1")
	ok(t, signOn(t, be1, m.Admin()), "CREATE user.u1")
	for _, addr := range []string{m.nodes[0], m.nodes[len(m.nodes)-1]} {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "python3", "compressed.py", host, port, m.Admin(), m.Password()).CombinedOutput()
		if err != nil || strings.Count(string(out), " MAILBOX \"user.u1\"") != 504 || !strings.Contains(string(out), "Z02 BAD") {
			t.Errorf("zlib at %s: %v\n%.2000s", addr, err, out)
		}
		text := mupdatetest(m, addr, "X1 FIND \"user.u1\"\r\nX2 LOGOUT\r\n", "-q", "-m", "PLAIN", "-a", "murder", "-u", "murder", "-w", m.Password())
		for _, want := range []string{"Z01 OK", "X1 MAILBOX", "X1 OK", "X2 "} {
			if !strings.Contains(text, want) {
				t.Errorf("mupdatetest at %s: no %q\n%s", addr, want, text)
				break
			}
		}
	}
}

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
