package conformance

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"murder/cluster"
	"murder/cluster/admin"
	"murder/fsm"
	"murder/internal/auth"
	"murder/internal/mbox"
	"murder/mupdate"
)

// What protects the copies of backends is optional between the packages, so the compiler must say that
// it is there.
var (
	_ mupdate.Directory    = (*cluster.Node)(nil)
	_ mupdate.ConflictView = (*fsm.View)(nil)
	_ mupdate.TransferView = (*fsm.View)(nil)
	_ mupdate.LeftoverView = (*fsm.View)(nil)
	_ mupdate.DeletedView  = (*fsm.View)(nil)
	_ mupdate.LocatedView  = (*fsm.View)(nil)
)

const (
	password = "secret"
	patience = 15 * time.Second
)

var users = sync.OnceValues(func() (*auth.Users, error) {
	var list []auth.User
	for _, name := range []string{"be-a", "be-b", "any", "take", "ro", "adm"} {
		list = append(list, auth.User{Account: auth.Account{Name: name}, Password: "{PLAIN}" + password})
	}
	return auth.NewUsers(list...)
})

// site is a cluster in this process: voters c1 ..., and a learner f1 if there are three of them.
type site struct {
	t     testing.TB
	dir   string
	nodes map[string]*cluster.Node
}

func logger(t testing.TB) *slog.Logger {
	if os.Getenv("MURDER_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("test", t.Name())
}

func (s *site) open(id string, role cluster.Role) *cluster.Node {
	s.t.Helper()
	n, err := cluster.Open(cluster.Config{
		NodeID: id, DataDir: s.t.TempDir(), Role: role, Listen: "127.0.0.1:0", Timing: "lan-fast",
		PromoteAfter: time.Millisecond, BinaryVersion: "test", Logger: logger(s.t),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.nodes[id] = n
	s.t.Cleanup(func() { halt(n) })
	return n
}

// halt stops a node without handing anything over.
func halt(n *cluster.Node) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n.Shutdown(ctx)
}

func newSite(t testing.TB, voters int) *site {
	t.Helper()
	s := &site{t: t, nodes: map[string]*cluster.Node{}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	first := s.open("c1", cluster.Coordinator)
	if _, err := first.Init(ctx, admin.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	var joins sync.WaitGroup
	join := func(id string, role cluster.Role) {
		token, err := first.CreateToken(ctx, admin.TokenRequest{Role: string(role)})
		if err != nil {
			t.Fatal(err)
		}
		n := s.open(id, role)
		joins.Go(func() {
			if err := n.Join(ctx, token.Token); err != nil {
				t.Errorf("joining %s: %v", id, err)
			}
		})
	}
	for i := 2; i <= voters; i++ {
		join(fmt.Sprint("c", i), cluster.Coordinator)
	}
	if voters > 1 {
		join("f1", cluster.Frontend)
	}
	joins.Wait()
	s.until(fmt.Sprint(voters, " voters, all of them synchronised"), func() bool {
		for _, n := range s.nodes {
			if !n.Synced() {
				return false
			}
		}
		return first.Status(ctx).Voters == voters
	})
	return s
}

// until waits for what has no event to wait for.
func (s *site) until(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal("never happened: ", what)
		}
	}
}

func (s *site) leader() string {
	s.t.Helper()
	var leader string
	s.until("a leader", func() bool {
		for _, n := range s.nodes {
			if id, ok := n.Leader(); ok && s.nodes[id] != nil {
				leader = id
				return true
			}
		}
		return false
	})
	return leader
}

// kill stops a node without a word to the others.
func (s *site) kill(id string) {
	halt(s.nodes[id])
	delete(s.nodes, id)
}

// settings are those of the murderd's mupdate section, for a test.
func settings(t testing.TB, id string, n *cluster.Node) mupdate.Config {
	t.Helper()
	source, err := users()
	if err != nil {
		t.Fatal(err)
	}
	cfg := mupdate.Config{
		Directory: n, Auth: auth.NewMechanisms(auth.Config{Source: source, Mechs: []string{"PLAIN"}, Pause: -1}),
		NodeID: id, ServerName: id + ".example", Version: "1.0", Logger: logger(t),
		Identities: map[string]mupdate.Identity{
			"be-a": {Role: mupdate.Backend, Servers: []mbox.Server{"a.example"}},
			"be-b": {Role: mupdate.Backend, Servers: []mbox.Server{"b.example"}},
			"take": {Role: mupdate.Backend, Servers: []mbox.Server{"b.example"}, Takeover: true},
			"any":  {Role: mupdate.Backend},
			"ro":   {Role: mupdate.Reader},
			"adm":  {Role: mupdate.Admin},
		},
	}
	if id[0] == 'f' {
		cfg.Upstream = "cluster.example"
	}
	return cfg
}

// serve puts a MUPDATE server in front of a node.
func (s *site) serve(t testing.TB, id string, adjust ...func(*mupdate.Config)) (addr string) {
	t.Helper()
	cfg := settings(t, id, s.nodes[id])
	for _, f := range adjust {
		f(&cfg)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := mupdate.New(cfg)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		srv.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return ln.Addr().String()
}

func dial(t testing.TB, addr, user string) *mupdate.Client {
	t.Helper()
	c, err := mupdate.Dial(t.Context(), mupdate.ClientConfig{Addresses: []string{addr}, SASL: mupdate.Password(user, password)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// talk is a raw connection.
type talk struct {
	net.Conn
	r *bufio.Reader
}

func connect(t testing.TB, addr string) *talk {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return &talk{nc, bufio.NewReader(nc)}
}

func (c *talk) send(s string) error {
	_, err := io.WriteString(c, s)
	return err
}

func (c *talk) line() (string, error) {
	s, err := c.r.ReadString('\n')
	if n := len(s); err == nil && n > 1 && s[n-2] == '\r' {
		return s[:n-2], nil
	}
	return s, err
}
