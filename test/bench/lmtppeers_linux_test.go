package bench

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"murder/test/cyrus"
	"murder/test/lmtpline"
	"murder/test/loopback"
)

// What of a backend's rate of deliveries of 2 kB is left through the frontend, for one recipient, for
// two on one backend, and for two on two (for which the backend's own rate with two is the comparison)?
// And what do others leave of it: haproxy, which passes octets to one backend, Cyrus's own frontend, and
// Dovecot's proxy? All take turns, as in BenchmarkIMAPPeers, because a backend grows slower as its mailboxes grow.
func BenchmarkLMTP(b *testing.B) {
	w := start(b)
	direct := target{name: "direct", addr: w.backendLMTP(0)}
	octets, others := w.otherLMTP(b)
	both := append([]target{direct, {name: "ours", addr: w.cluster.Addr("f1", "lmtp"), pid: w.cluster.PID("f1")}}, others...)
	if w.rig != nil {
		for _, list := range [][]target{both, octets} {
			for i := range list {
				list[i].behind = w.rig.Backends()[0].PID()
			}
		}
	}
	cases := []struct {
		name       string
		recipients []string
		targets    []target
	}{
		{"one recipient", []string{"u1"}, slices.Concat(both, octets)},
		{"two on one backend", []string{"u1", "u3"}, slices.Concat(both, octets)},
		{"two on two backends", []string{"u1", "u2"}, both},
	}
	rounds, span := number("MURDER_BENCH_ROUNDS", 3), time.Duration(number("MURDER_BENCH_MS", 1000))*time.Millisecond
	fmt.Printf("# %d rounds of %v for each, %s\n", rounds, span, load1())
	for b.Loop() {
		for _, conns := range []int{1, 8} {
			for _, c := range cases {
				op := operation[*lmtpline.Conn]{name: c.name, conns: conns, open: lmtpline.Dial, do: func(conn *lmtpline.Conn, addr string) error {
					to := c.recipients
					if addr == direct.addr && len(to) == 2 {
						to = []string{"u1", "u3"}
					}
					return deliver(message(), to...)(conn, 0)
				}}
				comparison(op, c.targets, rounds, span).print(op.title(), 0, c.targets)
			}
		}
	}
}

// otherLMTP starts what a site could put before real backends instead: octets go through haproxy to the first
// of them; the others know the protocol and both backends: Cyrus's own frontend, which follows our map, and Dovecot.
func (w *world) otherLMTP(b *testing.B) (octets, others []target) {
	if w.rig == nil {
		return nil, nil
	}
	n, err := loopback.Claim()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { n.Release() })
	peers := []peer{{"haproxy", "haproxy", startHAProxy}, {"dovecot", "dovecot", w.startDovecotLMTP}}
	running, stop, err := runPeers(peers, w.backendLMTP(0), "220 ", func(i int) string { return n.Host(10 + i) })
	b.Cleanup(stop)
	if err != nil {
		b.Fatal(err)
	}
	fe := w.rig.Node("fe1")
	if !fe.Running() {
		if err := fe.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { fe.Stop() }) // it follows the map, which others measure
	}
	others = []target{{name: "cyrus", addr: fe.Addr(cyrus.TrustedLMTPPort), pid: fe.PID()}}
	for _, t := range running {
		if t.name == "haproxy" {
			octets = append(octets, t)
		} else {
			others = append(others, t)
		}
	}
	return octets, others
}

func (w *world) startDovecotLMTP(dir, addr, _, _ string) ([]string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	users := ""
	for i := range 4 {
		be := w.rig.Backends()[i%backends]
		users += fmt.Sprintf("u%d:::::::proxy=y nopassword=y host=%s port=%d\n", i+1, be.Host, cyrus.TrustedLMTPPort)
	}
	conf := filepath.Join(dir, "conf")
	text := fmt.Sprintf(`protocols = lmtp
ssl = no
base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/log
lmtp_proxy = yes
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
service lmtp {
  inet_listener lmtp {
    address = %[2]s
    port = %[3]s
  }
}
service stats {
  unix_listener stats-writer {
    mode = 0666
  }
}
passdb {
  driver = passwd-file
  args = %[1]s/users
}
`, dir, host, port)
	return []string{"-F", "-c", conf}, errors.Join(os.WriteFile(filepath.Join(dir, "users"), []byte(users), 0o644), os.WriteFile(conf, []byte(text), 0o644))
}
