package imapcyrus

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"murder/internal/tlsconf"
	"murder/test/cyrus"
	"murder/test/harness"
	"murder/test/loopback"
)

// Password is that of every account.
const Password = "labpass"

// Users are those who can log in. The last has no mailbox yet.
var Users = []string{"alice", "bob", "carol", "dave", "erin", "frank", "john.smith"}

// Strangers are users whose passwords only Cyrus knows: gina has her mailbox on be1, hugo has none. The first
// frontend asks saslauthd about them, which asks be2; the second logs in at the user's own backend.
var Strangers = []string{"gina", "hugo"}

// World is a cluster of ours with two frontends in front of two Cyrus backends.
type World struct {
	*cyrus.Rig
	Cluster  *harness.Cluster
	F1, F2   string // the frontends' IMAP addresses
	Be1, Be2 *cyrus.Node

	dir       string
	release   func()
	saslauthd *exec.Cmd
}

// New starts everything.
func New() (_ *World, err error) {
	w := &World{}
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	if w.dir, err = os.MkdirTemp("", "imapcyrus"); err != nil {
		return nil, err
	}
	n, err := loopback.Claim()
	if err != nil {
		return nil, err
	}
	w.release = func() { n.Release() }
	args := []string{"--demo-backends", "0", "--admin", "cyrus:" + Password, "--proxy", "murder:" + Password,
		"--set", "namespace.altnamespace=true", "--set", "namespace.unixhierarchysep=true"}
	for i := 1; i <= 2; i++ {
		args = append(args, "--backend", fmt.Sprintf("be%d.rig.test=%s,imap=%d,lmtp=%d,pop3=%d,sieve=%d",
			i, n.Host(10+i), cyrus.IMAPPort, cyrus.LMTPPort, cyrus.POP3Port, cyrus.SievePort))
	}
	// be1 is reached as a careful site would: STARTTLS, a certificate that is checked, no password sent.
	if err = os.Chmod(w.dir, 0o755); err != nil {
		return nil, err
	}
	cert, key := filepath.Join(w.dir, "cert.pem"), filepath.Join(w.dir, "key.pem")
	if err = tlsconf.WriteSelfSigned(cert, key, n.Host(11)); err != nil {
		return nil, err
	}
	if err = os.Chmod(key, 0o644); err != nil {
		return nil, err
	}
	for key, value := range map[string]string{"tls": "starttls", "verify": "name", "ca_file": cert, "mechs": "SCRAM-SHA-256"} {
		args = append(args, "--set", fmt.Sprintf("backends.servers.\"be1.rig.test\".%s=%s", key, value))
	}
	// frank has a certificate of his own.
	if err = tlsconf.WriteSelfSigned(w.Certificate("frank")+".pem", w.Certificate("frank")+".key", "frank"); err != nil {
		return nil, err
	}
	args = append(args, "--set", "tls.client_ca_file="+w.Certificate("frank")+".pem")
	for _, u := range Users {
		args = append(args, "--user", u+":"+Password)
	}
	order, err := cyrus.OrderArgs("murder")
	if err != nil {
		return nil, err
	}
	args = append(args, order...)
	args = append(args, "--set", "f1/users.saslauthd="+filepath.Join(w.dir, "mux"), "--set", "f2/users.passthrough=true")
	if w.Cluster, err = harness.New(harness.Options{Net: n, Coordinators: 3, Frontends: 2, Args: args}); err != nil {
		return nil, err
	}
	w.F1, w.F2 = w.Cluster.Addr("f1", "imap"), w.Cluster.Addr("f2", "imap")
	_, port, _ := net.SplitHostPort(w.Cluster.Addr("c1", "mupdate"))
	hosts := map[string][]string{}
	for _, id := range []string{"c1", "c2", "c3"} {
		host, _, _ := net.SplitHostPort(w.Cluster.Addr(id, "mupdate"))
		hosts["mupdate.rig.test"] = append(hosts["mupdate.rig.test"], host)
	}
	w.Rig, err = cyrus.New(cyrus.Options{Net: n, Unix: true, Users: slices.Concat(Users, Strangers), Hosts: hosts, Mupdate: "mupdate.rig.test:" + port,
		Conf: map[string][]string{"": {"allowallsubscribe: yes", "imapidlepoll: 1"}, "be1": {"delete_mode: immediate", "tls_server_cert: " + cert, "tls_server_key: " + key}}})
	if err != nil {
		return nil, err
	}
	if err = w.StartAll(); err != nil {
		return nil, err
	}
	w.Be1, w.Be2 = w.Node("be1"), w.Node("be2")
	if err = w.StartSaslauthd(); err != nil {
		return nil, err
	}
	for _, at := range []struct {
		node *cyrus.Node
		cmds []string
	}{
		{w.Be1, []string{"CREATE user/alice", "CREATE user/erin", "CREATE user/frank", "CREATE user/gina"}},
		{w.Be2, []string{"CREATE user/bob", "CREATE user/bob/proj", "SETACL user/bob/proj alice lrswipkxte", "CREATE user/carol",
			"CREATE user/dave", "CREATE shared", "SETACL shared anyone lrswip"}},
	} {
		c, err := at.node.IMAP("cyrus")
		if err != nil {
			return nil, err
		}
		for _, cmd := range at.cmds {
			if _, err := c.OK("%s", cmd); err != nil {
				return nil, err
			}
		}
		c.Close()
	}
	return w, nil
}

// Certificate is the file that holds the certificate of a user, with ".pem" behind it, or its key, with
// ".key".
func (w *World) Certificate(user string) string { return filepath.Join(w.dir, "user-"+user) }

// CA is the file that holds the certificate of the frontends.
func (w *World) CA() string { return filepath.Join(w.Cluster.Dir, "cert.pem") }

// StartSaslauthd starts the daemon that the first frontend asks, and waits until it answers.
func (w *World) StartSaslauthd() error {
	w.saslauthd = exec.Command("saslauthd", "-d", "-n", "2", "-m", w.dir, "-a", "rimap", "-O", w.Be2.Host+"/"+strconv.Itoa(cyrus.IMAPPort))
	w.saslauthd.SysProcAttr = harness.ChildAttr() // it ends its whole group
	if err := w.saslauthd.Start(); err != nil {
		return fmt.Errorf("starting saslauthd: %w", err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("unix", filepath.Join(w.dir, "mux"))
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(end) {
			return fmt.Errorf("waiting for saslauthd: %w", err)
		}
	}
}

// StopSaslauthd ends it. It is killed, with its group, because it logs and frees memory in its handler of
// SIGTERM: of a hundred that are told to end, one waits for its own lock for ever.
func (w *World) StopSaslauthd() {
	syscall.Kill(-w.saslauthd.Process.Pid, syscall.SIGKILL)
	w.saslauthd.Wait()
	os.Remove(filepath.Join(w.dir, "mux"))
}

// Close ends everything.
func (w *World) Close() {
	if w.saslauthd != nil && w.saslauthd.Process != nil {
		w.StopSaslauthd()
	}
	if w.Cluster != nil {
		w.Cluster.Close()
	}
	if w.Rig != nil {
		w.Rig.Close()
	}
	if w.release != nil {
		w.release()
	}
	os.RemoveAll(w.dir)
}
