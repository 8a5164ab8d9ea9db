package bench

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"murder/test/cyrus"
)

// lmtpPeers are the other programs that a user might put before backends, started when they are first asked
// for. Those that are not installed are named once and left out.
var lmtpPeers struct {
	haproxy, dovecot sync.Once
	targets          map[string][]target
}

// haproxy passes octets to the first backend's LMTP port.
func (w *world) haproxy() []target {
	lmtpPeers.haproxy.Do(func() {
		w.peer("haproxy", w.host(40)+":2003", func(dir, addr string) (*exec.Cmd, error) {
			config := fmt.Sprintf("global\n nbthread 1\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 10m\n timeout server 10m\n"+
				"listen lmtp\n bind %s\n server be1 %s\n", addr, w.backendLMTP(0))
			file := filepath.Join(dir, "haproxy.cfg")
			return exec.Command("haproxy", "-db", "-f", file), os.WriteFile(file, []byte(config), 0o644)
		})
	})
	return lmtpPeers.targets["haproxy"]
}

// otherLMTP are proxies that know LMTP: Cyrus's own frontend, which follows our map, and Dovecot's.
func (w *world) otherLMTP(b *testing.B) []target {
	if w.rig == nil {
		return nil
	}
	lmtpPeers.dovecot.Do(func() {
		w.peer("dovecot", w.host(41)+":2003", func(dir, addr string) (*exec.Cmd, error) {
			host, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			users := ""
			for i := range 4 {
				be := w.rig.Backends()[i%backends]
				users += fmt.Sprintf("u%d:::::::proxy=y nopassword=y host=%s port=%d\n", i+1, be.Host, cyrus.TrustedLMTPPort)
			}
			config := fmt.Sprintf("base_dir = %[1]s/run\nstate_dir = %[1]s/state\nprotocols = lmtp\nssl = no\nlog_path = %[1]s/log\nlmtp_proxy = yes\n"+
				"default_internal_user = nobody\ndefault_internal_group = nogroup\ndefault_login_user = nobody\n"+
				"service lmtp {\n inet_listener lmtp {\n  address = %[2]s\n  port = %[3]s\n }\n}\n"+
				"service stats {\n unix_listener stats-writer {\n  mode = 0666\n }\n}\n"+
				"passdb {\n driver = passwd-file\n args = %[1]s/users\n}\n", dir, host, port)
			for name, text := range map[string]string{"users": users, "dovecot.conf": config} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					return nil, err
				}
			}
			return exec.Command("dovecot", "-F", "-c", filepath.Join(dir, "dovecot.conf")), nil
		})
	})
	fe := w.rig.Node("fe1")
	if !fe.Running() {
		if err := fe.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { fe.Stop() }) // it follows the map, which others measure
	}
	return append([]target{{name: "cyrus", addr: fe.Addr(cyrus.TrustedLMTPPort)}}, lmtpPeers.targets["dovecot"]...)
}

// peer starts a program that is to listen on addr, and ends it with the world.
func (w *world) peer(name, addr string, command func(dir, addr string) (*exec.Cmd, error)) {
	if lmtpPeers.targets == nil {
		lmtpPeers.targets = map[string][]target{}
	}
	if _, err := exec.LookPath(name); err != nil || w.rig == nil {
		fmt.Printf("# without %s\n", name)
		return
	}
	dir, err := os.MkdirTemp("", name)
	if err != nil {
		fmt.Printf("# without %s: %v\n", name, err)
		return
	}
	os.Chmod(dir, 0o755)
	w.close = append(w.close, func() { os.RemoveAll(dir) })
	cmd, err := command(dir, addr)
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Printf("# without %s: %v\n", name, err)
		return
	}
	w.close = append(w.close, func() { cmd.Process.Signal(os.Interrupt); cmd.Wait() })
	for range 100 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			lmtpPeers.targets[name] = []target{{name: name, addr: addr}}
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Printf("# without %s: it does not listen on %s\n", name, addr)
}
