package bench

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"murder/internal/tlsconf"
	"murder/test/harness"
)

// The proxies that a site could use instead, where they are installed or unpacked: $MURDER_BENCH_PEERS is a
// directory with a usr of its own, as test/bench/fetch-peers makes one, which is laid over /usr in a private
// mount namespace. (Debian's packages of Dovecot and Cyrus exclude one another.) None of them knows more than
// one backend here: that of the users that the load is made with.

// peer is one of them.
type peer struct {
	name, program string
	// start writes files into dir and returns the command; addr is where it shall listen, tlsAddr the
	// same with TLS by cert and key, at is the backend.
	start func(dir, addr, tlsAddr, at string) ([]string, error)
}

// imapPeers know the protocol, or pass octets.
var imapPeers = []peer{
	{"haproxy", "haproxy", startHAProxy},
	{"nginx", "nginx", startNginx},
	{"perdition", "perdition.imap4", startPerdition},
	{"dovecot", "dovecot", func(dir, addr, tlsAddr, at string) ([]string, error) { return startDovecot(dir, addr, tlsAddr, at, "") }},
	{"dovecot-nopipe", "dovecot", func(dir, addr, tlsAddr, at string) ([]string, error) {
		return startDovecot(dir, addr, tlsAddr, at, "proxy_nopipelining=y")
	}},
}

// overlay is the directory that is laid over /usr, "" for none.
func overlay() string { return os.Getenv("MURDER_BENCH_PEERS") }

// program returns where a program is, "" if nowhere.
func program(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/usr/bin"} {
		if _, err := os.Stat(filepath.Join(overlay(), dir, name)); err == nil && overlay() != "" {
			return filepath.Join(dir, name)
		}
	}
	return ""
}

// runPeers starts those that are here, on addresses host(0), host(1) and so on, in front of at, whose protocol's
// greeting begins with greeting.
func runPeers(peers []peer, at, greeting string, host func(int) string) (targets []target, stop func(), err error) {
	dir, err := os.MkdirTemp("", "peers")
	if err != nil {
		return nil, func() {}, err
	}
	var running []*exec.Cmd
	stop = func() {
		for _, cmd := range running {
			for _, pid := range family(cmd.Process.Pid) {
				syscall.Kill(pid, syscall.SIGTERM)
			}
			cmd.Wait()
		}
		os.RemoveAll(dir)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // some run as users of their own
		return nil, stop, err
	}
	for i, p := range peers {
		path := program(p.program)
		if path == "" {
			fmt.Printf("# without %s: not installed\n", p.name)
			continue
		}
		own := filepath.Join(dir, p.name)
		if err := os.Mkdir(own, 0o755); err != nil {
			return nil, stop, err
		}
		t := target{name: p.name, addr: net.JoinHostPort(host(i), "1143"), tls: net.JoinHostPort(host(i), "1993")}
		args, err := p.start(own, t.addr, t.tls, at)
		if err != nil {
			return nil, stop, err
		}
		args = append([]string{path}, args...)
		if top := overlay(); top != "" {
			script := fmt.Sprintf(`mount -t overlay overlay -o lowerdir=%s/usr:/usr /usr && exec "$@"`, top)
			args = append([]string{"unshare", "-m", "sh", "-c", script, "sh"}, args...)
		}
		out, err := os.Create(filepath.Join(own, "out"))
		if err != nil {
			return nil, stop, err
		}
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = out, out
		cmd.SysProcAttr = harness.ChildAttr()
		err = cmd.Start()
		out.Close()
		if err != nil {
			return nil, stop, err
		}
		running = append(running, cmd)
		t.pid = cmd.Process.Pid
		if err := answers(t.addr, greeting); err != nil {
			text, _ := os.ReadFile(filepath.Join(own, "out"))
			fmt.Printf("# without %s: %v: %s\n", p.name, err, bytes.TrimSpace(text))
			continue
		}
		targets = append(targets, t)
	}
	return targets, stop, nil
}

// answers waits until somebody greets at addr.
func answers(addr, greeting string) (err error) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var nc net.Conn
		if nc, err = net.Dial("tcp", addr); err != nil {
			continue
		}
		nc.SetDeadline(time.Now().Add(5 * time.Second))
		b := make([]byte, len(greeting))
		_, err = io.ReadFull(nc, b)
		nc.Close()
		if err == nil && string(b) == greeting {
			return nil
		}
	}
	return cmp.Or(err, errors.New("no greeting"))
}

// certificate makes one for a peer.
func certificate(dir string) (cert, key string, err error) {
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	return cert, key, tlsconf.WriteSelfSigned(cert, key, "bench")
}

func startHAProxy(dir, addr, tlsAddr, at string) ([]string, error) {
	cert, key, err := certificate(dir)
	if err != nil {
		return nil, err
	}
	var both []byte
	for _, f := range []string{cert, key} {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		both = append(both, text...)
	}
	pem := filepath.Join(dir, "both.pem")
	conf := filepath.Join(dir, "conf")
	text := fmt.Sprintf(`global
  maxconn 9500
defaults
  mode tcp
  timeout connect 5s
  timeout client 24h
  timeout server 24h
listen imap
  bind %s
  bind %s ssl crt %s
  server be %s
`, addr, tlsAddr, pem, at)
	return []string{"-db", "-f", conf}, errors.Join(os.WriteFile(pem, both, 0o600), os.WriteFile(conf, []byte(text), 0o644))
}

func startNginx(dir, addr, tlsAddr, at string) ([]string, error) {
	cert, key, err := certificate(dir)
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return nil, err
	}
	// Whoever asks is let through to the backend, which checks the password.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Auth-Status", "OK")
		w.Header().Set("Auth-Server", host)
		w.Header().Set("Auth-Port", port)
	}))
	conf := filepath.Join(dir, "conf")
	text := fmt.Sprintf(`load_module /usr/lib/nginx/modules/ngx_mail_module.so;
daemon off;
user root;
worker_processes 2;
pid %[1]s/pid;
error_log %[1]s/log;
events { worker_connections 19000; }
mail {
  auth_http %[2]s/;
  proxy_timeout 24h;
  timeout 24h;
  imap_auth plain login;
  imap_capabilities IMAP4rev1 LITERAL+ UIDPLUS IDLE;
  server { listen %[3]s; protocol imap; }
  server { listen %[4]s ssl; protocol imap; ssl_certificate %[5]s; ssl_certificate_key %[6]s; }
}
`, dir, ln.Addr(), addr, tlsAddr, cert, key)
	return []string{"-e", dir + "/log", "-p", dir, "-c", conf}, os.WriteFile(conf, []byte(text), 0o644)
}

func startPerdition(dir, addr, _, at string) ([]string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	return []string{"--no_daemon", "--bind_address", host, "--listen_port", port, "--outgoing_server", at, "--map_library", "",
		"--connection_limit", "0", "--timeout", "86400", "--ssl_mode", "none", "--pid_file", dir + "/pid", "--username", "root", "--group", "root"}, nil
}

func startDovecot(dir, addr, tlsAddr, at, extra string) ([]string, error) {
	cert, key, err := certificate(dir)
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	host, tlsPort, _ := net.SplitHostPort(tlsAddr)
	backend, backendPort, err := net.SplitHostPort(at)
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "conf")
	text := fmt.Sprintf(`protocols = imap
listen = %[1]s
base_dir = %[2]s/run
log_path = %[2]s/log
default_login_user = nobody
default_internal_user = daemon
default_internal_group = daemon
disable_plaintext_auth = no
default_client_limit = 19000
ssl = yes
ssl_cert = <%[3]s
ssl_key = <%[4]s
passdb {
  driver = static
  args = proxy=y host=%[5]s port=%[6]s nopassword=y %[7]s
}
service imap-login {
  service_count = 0
  process_min_avail = 2
  client_limit = 9000
  inet_listener imap {
    port = %[8]s
  }
  inet_listener imaps {
    port = %[9]s
    ssl = yes
  }
}
`, host, dir, cert, key, backend, backendPort, extra, port, tlsPort)
	return []string{"-F", "-c", conf}, os.WriteFile(conf, []byte(text), 0o644)
}
