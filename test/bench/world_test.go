package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"murder/internal/mbox"
	"murder/mupdate"
	"murder/test/cyrus"
	"murder/test/harness"
	"murder/test/imapline"
	"murder/test/loopback"
)

const (
	admin, password = "cyrus", "labpass"
	backends        = 2
	messageSize     = 2048
)

// world is what all benchmarks share: a cluster of three coordinators and two frontends, backends, and
// Cyrus's own MUPDATE master.
type world struct {
	cluster *harness.Cluster
	rig     *cyrus.Rig // nil where Cyrus cannot run: then the backends are the demo ones
	net     *loopback.Net
	close   []func()
}

var shared struct {
	once sync.Once
	*world
	err error
}

func TestMain(m *testing.M) {
	if addr := os.Getenv(stubEnv); addr != "" {
		beStub(addr)
	}
	if addr := os.Getenv(echoEnv); addr != "" {
		beOwn(addr, serveEcho)
	}
	if where := os.Getenv(relayEnv); where != "" {
		beRelay(where)
	}
	code := m.Run()
	if shared.world != nil {
		for i := len(shared.close) - 1; i >= 0; i-- {
			shared.close[i]()
		}
	}
	writeRatios(os.Stdout)
	harness.Exit(code)
}

func start(b *testing.B) *world {
	b.Helper()
	shared.once.Do(func() { shared.world, shared.err = newWorld() })
	if shared.err != nil {
		b.Fatal(shared.err)
	}
	return shared.world
}

func newWorld() (w *world, err error) {
	w = &world{}
	var net *loopback.Net
	// The second frontend does for a session no more than others do: the user's own password is good enough, and the
	// backend is not told where he comes from.
	options := harness.Options{Frontends: 2, Args: []string{"--set", "f2/users.file=", "--set", "f2/users.passthrough=true", "--set", "f2/imap.hide_origin=true"}}
	real := len(cyrus.Missing()) == 0
	if real {
		if net, err = loopback.Claim(); err != nil {
			return nil, err
		}
		w.close = append(w.close, func() { net.Release() })
		options.Net, options.Args = net, append(options.Args, "--demo-backends", "0")
		for i := 1; i <= backends; i++ {
			options.Args = append(options.Args, "--backend", fmt.Sprintf("be%d.rig.test=%s,imap=%d,lmtp=%d",
				i, net.Host(10+i), cyrus.IMAPPort, cyrus.TrustedLMTPPort))
		}
	} else {
		fmt.Printf("# without Cyrus: %s\n", strings.Join(cyrus.Missing(), "; "))
	}
	if w.cluster, err = harness.New(options); err != nil {
		return w, err
	}
	w.close = append(w.close, func() {
		if err := w.cluster.Close(); err != nil {
			fmt.Println("#", err)
		}
	})
	if real {
		w.net = net
		w.rig, err = cyrus.New(cyrus.Options{Net: net, Master: true, Backends: backends, Frontends: 1, Mupdate: w.cluster.Addr("c1", "mupdate"),
			FrontendMupdate: w.cluster.Addr("f1", "mupdate"), Conf: map[string][]string{"fe1": {"force_sasl_client_mech: PLAIN"}}})
		if err != nil {
			return w, err
		}
		w.close = append(w.close, w.rig.Close)
		if err = w.runInMemory(); err != nil {
			return w, err
		}
		for _, n := range append(w.rig.Backends(), w.rig.Node("mupdate")) { // fe1 is started by those who ask for it
			if err = n.Start(); err != nil {
				return w, err
			}
		}
	}
	return w, w.fill()
}

// runInMemory has what Cyrus writes anew for every command, and its locks, in memory, where a site has them
// (Cyrus: proc_path and mboxname_lockpath, which Debian sets to /run).
func (w *world) runInMemory() error {
	runs, err := filepath.Glob(filepath.Join(w.rig.Dir, "*", "run"))
	if err != nil {
		return err
	}
	for _, run := range runs {
		const script = `mv "$0" "$0.old" && mkdir "$0" && mount -t tmpfs murder "$0" && cp -a "$0.old/." "$0"`
		if out, err := exec.Command("sh", "-c", script, run).CombinedOutput(); err != nil {
			return fmt.Errorf("having %s in memory: %w: %s", run, err, out)
		}
		w.close = append(w.close, func() { exec.Command("umount", "-l", run).Run() })
	}
	return nil
}

// fill gives u1 and u3 a mailbox on the first backend, u2 and u4 one on the second, and u1 a message.
func (w *world) fill() error {
	for i := range 4 {
		c, err := imapline.Login(w.backendIMAP(i%backends), admin, password)
		if err != nil {
			return err
		}
		_, err = c.OK("CREATE user.u%d", i+1)
		c.Close()
		if err != nil {
			return err
		}
	}
	c, err := imapline.Login(w.backendIMAP(0), "u1", password)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Append("INBOX", message())
}

func message() string { return messageOf(messageSize) }

func messageOf(size int) string {
	head := "From: a@example.org\r\nTo: u@example.org\r\nSubject: bench\r\n\r\n"
	line := strings.Repeat("x", 76) + "\r\n"
	return head + strings.Repeat(line, (size-len(head))/len(line))
}

// host is an address of the world's own.
func (w *world) host(last int) string {
	if w.net == nil {
		return "127.0.0.1"
	}
	return w.net.Host(last)
}

// backendIMAP is the IMAP address of a backend, counted from 0.
func (w *world) backendIMAP(i int) string {
	if w.rig != nil {
		return w.rig.Backends()[i].Addr(cyrus.IMAPPort)
	}
	return w.cluster.Env(fmt.Sprintf("B%d_IMAP", i+1))
}

func (w *world) backendLMTP(i int) string {
	if w.rig != nil {
		return w.rig.Backends()[i].Addr(cyrus.TrustedLMTPPort)
	}
	return w.cluster.Env(fmt.Sprintf("B%d_LMTP", i+1))
}

// target is one thing that is measured.
type target struct {
	name, addr string
	tls        string  // the same with TLS, "" for none
	pid        int     // of its first process, 0 if unknown
	behind     int     // the same of the backend behind it
	idle       float64 // what it uses of a processor when there is nothing to do
}

// mupdateServers are a coordinator, a frontend, and Cyrus's own master.
func (w *world) mupdateServers() []target {
	list := []target{{name: "coordinator", addr: w.cluster.Addr("c1", "mupdate")}, {name: "frontend", addr: w.cluster.Addr("f1", "mupdate")}}
	if w.rig != nil {
		list = append(list, target{name: "cyrus", addr: w.rig.Node("mupdate").Addr(cyrus.MupdatePort)})
	}
	return list
}

func dialMupdate(addr string) (*mupdate.Client, error) {
	return mupdate.Dial(context.Background(), mupdate.ClientConfig{Addresses: []string{addr}, SASL: mupdate.Password(admin, password)})
}

// load brings count records into a server's map, once for each server.
func load(addr string, count int) error {
	loaded.mu.Lock()
	defer loaded.mu.Unlock()
	if loaded.done[addr] >= count {
		return nil
	}
	c, err := dialMupdate(addr)
	if err != nil {
		return err
	}
	defer c.Close()
	const batch = 1000
	for i := loaded.done[addr]; i < count; i += batch {
		var writes []mbox.Write
		for j := i; j < min(i+batch, count); j++ {
			writes = append(writes, mbox.Write{Kind: mbox.Activate, Name: record(j),
				Location: mbox.At("load.test", "default"), ACL: "owner\tlrswipkxtecdan\t"})
		}
		errs, err := c.Batch(context.Background(), writes)
		if err != nil {
			return err
		}
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
	}
	loaded.done[addr] = count
	return nil
}

var loaded = struct {
	mu   sync.Mutex
	done map[string]int
}{done: map[string]int{}}

// record is the name of a loaded record: ten folders a user.
func record(i int) mbox.Name { return mbox.Name(fmt.Sprintf("user.load%06d.folder%d", i/10, i%10)) }
