package imap

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"murder/internal/auth"
	"murder/internal/backend"
	"murder/internal/mbox"
)

func TestMain(m *testing.M) {
	// What the resolver keeps must not be made within a test in virtual time: others could not use it.
	net.DefaultResolver.LookupHost(context.Background(), "localhost")
	verbs["XPANIC"] = &verb{name: "XPANIC", phases: anyPhase, run: func(*session, *command) error { panic("ordered by a test") }}
	verbs["XPUMP"] = &verb{name: "XPUMP", phases: selected, run: func(s *session, _ *command) error {
		x := &exchange{take: func([]byte) bool { panic("ordered by a test") }}
		s.sel.begin(x)
		s.sel.write([]byte(x.tag + " STATUS INBOX (MESSAGES)\r\n"))
		<-x.done
		return x.err
	}}
	goleak.VerifyTestMain(m)
}

// rig is a frontend with two stub backends: alice on b1, bob and carol on b2, a shared folder on b2,
// and user.bob.proj that alice may use.
type rig struct {
	t     testing.TB
	net   *memoryNet // nil: TCP
	dir   *memory
	srv   *Server
	addr  string
	stubs map[string]*stub
	users map[string]*dialogue
	log   *lockedBuffer
}

// rigOptions say how a rig differs from the usual one.
type rigOptions struct {
	net      *memoryNet // for virtual time
	config   []func(*Config)
	settings func(mbox.Server, *backend.Settings)
	stubs    func(*stub)   // before they start
	hot      time.Duration // see hotFor
	lot      lot           // instead of the usual one
}

// hot is how long the rigs' goroutines wait before they park. MURDER_TEST_HOT=1ms makes them do so all the time.
var hot = func() time.Duration {
	d, _ := time.ParseDuration(os.Getenv("MURDER_TEST_HOT"))
	return cmp.Or(d, hotFor)
}()

func newRig(t testing.TB, change ...func(*Config)) *rig {
	t.Helper()
	return rigOptions{config: change}.make(t)
}

// inVirtualTime runs a story on a rig whose clock stands still while somebody has something to do.
func inVirtualTime(t *testing.T, o rigOptions, story func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o.net = newMemoryNet()
		story(t, o.make(t))
	})
}

func (o rigOptions) make(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, net: o.net, dir: newMemory(), stubs: map[string]*stub{}, users: map[string]*dialogue{}, log: &lockedBuffer{}}
	var log io.Writer = r.log
	if testing.Verbose() {
		log = io.MultiWriter(r.log, os.Stderr)
	}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg := Config{
		Hostname: "fe", Directory: r.dir, Namespace: mbox.Namespace{Alt: true}, ProbeInterval: -1, Logger: logger,
	}
	cfg.Auth = auth.NewMechanisms(auth.Config{Source: accounts(), Pause: -1, Mechs: []string{"PLAIN"}, Logger: logger,
		Canonical: func(name string) (string, error) { id, err := cfg.Namespace.Canonical(name); return string(id), err }})
	if o.net == nil {
		cfg.Limits = Limits{Barrier: time.Second, MoveWait: 300 * time.Millisecond, BackendReply: 2 * time.Second, BackendLogin: 2 * time.Second}
	}
	for _, f := range o.config {
		f(&cfg)
	}
	settings := make(map[mbox.Server]backend.Settings)
	for _, name := range []string{"b1", "b2"} {
		b := newStub(t, o.net, mbox.Server(name), r.dir, cfg.Namespace)
		if o.stubs != nil {
			o.stubs(b)
		}
		b.start()
		r.stubs[name] = b
		host, port, _ := net.SplitHostPort(b.addr)
		p, _ := strconv.Atoi(port)
		set := backend.Settings{Host: host, Ports: map[backend.Service]int{backend.IMAP: p}, TLS: backend.NoTLS,
			Authname: "murder", Password: "secret", Mechs: []string{"PLAIN"}}
		if o.settings != nil {
			o.settings(b.name, &set)
		}
		settings[b.name] = set
	}
	backends := backend.Config{Servers: settings, Logger: logger, Metrics: cfg.Metrics}
	if o.net != nil {
		backends.Dial = o.net.dial
	}
	cfg.Backends = backend.New(backends)
	b1, b2 := r.stubs["b1"], r.stubs["b2"]
	b1.add("user.alice", "alice\tlrswipkxtecda\t", "one", "two", "three")
	b1.add("user.alice.Work", "alice\tlrswipkxtecda\t")
	b1.add("user.alice.Work.Deep", "alice\tlrswipkxtecda\t")
	b2.add("user.bob", "bob\tlrswipkxtecda\t")
	b2.add("user.bob.proj", "bob\tlrswipkxtecda\talice\tlrswipkxte\t")
	b2.add("user.carol", "carol\tlrswipkxtecda\t")
	b2.add("shared", "anyone\tlrswip\t", "s1")
	b2.add("shared.deny", "anyone\tlrswip\t-alice\tl\t")
	b2.add("secret", "bob\tlrswip\t")
	var err error
	if r.srv, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	if o.net != nil && r.srv.lot != nil {
		r.srv.lot = &memoryLot{}
	}
	if o.lot != nil {
		r.srv.lot = o.lot
	}
	if r.srv.lot != nil {
		r.srv.hot = cmp.Or(o.hot, hot)
	}
	ln := listenOn(t, o.net, "")
	r.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- r.srv.Serve(ln, nil) }()
	t.Cleanup(func() {
		for _, d := range r.users {
			d.conn.Close()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := r.srv.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return r
}

// accounts are those of all rigs, with the password "pw" each: their SCRAM keys take their time.
var accounts = sync.OnceValue(func() *auth.Users {
	list := []auth.User{{Account: auth.Account{Name: "cyrus", Admin: true}, Password: "{PLAIN}pw"}}
	for _, name := range []string{"alice", "bob", "carol", "denied", "foo@example.com", "foo@other.org"} {
		list = append(list, auth.User{Account: auth.Account{Name: name}, Password: "{PLAIN}pw"})
	}
	users, err := auth.NewUsers(list...)
	if err != nil {
		panic(err)
	}
	return users
})

// asleep waits until every session is parked, and the pump of every connection, too.
func (r *rig) asleep() {
	r.t.Helper()
	eventually(r.t, "all are parked", func() bool {
		r.srv.mu.Lock()
		defer r.srv.mu.Unlock()
		for _, s := range r.srv.sessions {
			s.mu.Lock()
			parked, conns := s.parked != 0, s.conns
			s.mu.Unlock()
			for _, c := range conns {
				c.mu.Lock()
				parked = parked && !c.pumping
				c.mu.Unlock()
			}
			if !parked {
				return false
			}
		}
		return true
	})
}

// listenOn listens on an address, "" for a new one, of a network, nil for TCP.
func listenOn(t testing.TB, n *memoryNet, addr string) net.Listener {
	t.Helper()
	if n != nil {
		return n.listen(addr)
	}
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// lockedBuffer is what the server logs.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *lockedBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// dialogue is one client.
type dialogue struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	// patience is how long an answer may take.
	patience time.Duration
}

// connsAt returns the connections of all sessions to a backend.
func (r *rig) connsAt(server mbox.Server) (list []*conn) {
	r.srv.mu.Lock()
	defer r.srv.mu.Unlock()
	for _, s := range r.srv.sessions {
		s.mu.Lock()
		if c := s.at(server); c != nil {
			list = append(list, c)
		}
		s.mu.Unlock()
	}
	return list
}

func (r *rig) open(name string) *dialogue {
	r.t.Helper()
	d := &dialogue{t: r.t, patience: 5 * time.Second}
	var err error
	if r.net == nil {
		d.conn, err = net.Dial("tcp", r.addr)
	} else {
		d.conn, err = r.net.dial(context.Background(), r.addr)
		d.patience = 24 * time.Hour
	}
	if err != nil {
		r.t.Fatal(err)
	}
	d.r = bufio.NewReader(d.conn)
	r.users[name] = d
	return d
}

// login opens a client and logs it in.
func (r *rig) login(name, user string) *dialogue {
	r.t.Helper()
	d := r.open(name)
	d.expect("* OK [CAPABILITY IMAP4rev1 ...")
	d.send("l0 LOGIN " + user + " pw")
	d.expect("l0 OK [CAPABILITY ...] Logged in")
	return d
}

func (d *dialogue) send(line string) { d.raw(line + "\r\n") }

func (d *dialogue) raw(s string) {
	d.t.Helper()
	d.conn.SetWriteDeadline(time.Now().Add(d.patience))
	if _, err := d.conn.Write([]byte(s)); err != nil {
		d.t.Fatalf("sending %.60q: %v", s, err)
	}
}

func (d *dialogue) line() (string, error) {
	d.conn.SetReadDeadline(time.Now().Add(d.patience))
	line, err := d.r.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

// expect reads one line; "..." in want stands for anything.
func (d *dialogue) expect(want string) string {
	d.t.Helper()
	got, err := d.line()
	if err != nil {
		d.t.Fatalf("want %q: %v", want, err)
	}
	if !likeness(want).MatchString(got) {
		d.t.Fatalf("got  %q\nwant %q", got, want)
	}
	return got
}

func likeness(want string) *regexp.Regexp {
	return regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(want), `\.\.\.`, ".*") + "$")
}

func (d *dialogue) end() {
	d.t.Helper()
	if line, err := d.line(); err == nil {
		d.t.Fatalf("got %q, want the end", line)
	}
}

// until reads lines up to the tagged one and returns all.
func (d *dialogue) until(tag string) []string {
	d.t.Helper()
	var lines []string
	for {
		line, err := d.line()
		if err != nil {
			d.t.Fatalf("waiting for %s after %q: %v", tag, lines, err)
		}
		lines = append(lines, line)
		if strings.HasPrefix(line, tag+" ") {
			return lines
		}
	}
}

// TestStories plays the dialogues in testdata, over TCP and once more in virtual time: "A> text" is sent
// by client A, "A< text" must come ("..." for anything), "A<<" is the end of the connection, "A>> text" is
// sent without a line end (\r and \n are escapes), and "! words" orders something (see direct). A file may
// begin with "! rig OPTION ..." (see stage).
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no stories", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		octets, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(octets), "\n")
		o := stage(t, &lines[0])
		tell := func(t *testing.T, r *rig) {
			for i, line := range lines {
				r.t = lineT{t, fmt.Sprintf("%s:%d", file, i+1)}
				for _, d := range r.users {
					d.t = r.t
				}
				r.play(line)
			}
		}
		t.Run(name, func(t *testing.T) { tell(t, o.make(t)) })
		t.Run(name+" in virtual time", func(t *testing.T) { inVirtualTime(t, o, tell) })
	}
}

// stage reads the options of a story off its first line.
func stage(t *testing.T, first *string) (o rigOptions) {
	words, ok := strings.CutPrefix(*first, "! rig ")
	if !ok {
		return o
	}
	*first = ""
	for word := range strings.FieldsSeq(words) {
		change, ok := map[string]func(*Config){
			"small":   func(c *Config) { c.Limits.Append = 10 },
			"dot":     func(c *Config) { c.Namespace = mbox.Namespace{Dot: true} },
			"virtual": func(c *Config) { c.Namespace = mbox.Namespace{Alt: true, Virtual: true, DefaultDomain: "example.net"} },
		}[word]
		if !ok {
			t.Fatalf("unknown option %q of a story", word)
		}
		o.config = append(o.config, change)
	}
	return o
}

// lineT puts the place in a story before its messages.
type lineT struct {
	testing.TB
	place string
}

func (t lineT) Fatalf(format string, args ...any) {
	t.TB.Helper()
	t.TB.Fatalf(t.place+": "+format, args...)
}

func (r *rig) play(line string) {
	r.t.Helper()
	if line == "" || line[0] == '#' {
		return
	}
	if words, ok := strings.CutPrefix(line, "! "); ok {
		r.direct(strings.Fields(words), words)
		return
	}
	d := r.users[line[:1]]
	text := ""
	if i := strings.IndexByte(line, ' '); i > 0 {
		text = line[i+1:]
	}
	switch {
	case d == nil:
		r.t.Fatalf("no client %q", line[:1])
	case strings.HasPrefix(line[1:], ">>"):
		d.raw(strings.NewReplacer(`\r`, "\r", `\n`, "\n").Replace(text))
	case line[1] == '>':
		d.send(text)
	case strings.HasPrefix(line[1:], "<<"):
		d.end()
	case line[1] == '<':
		d.expect(text)
	default:
		r.t.Fatalf("what is %q", line)
	}
}

func (r *rig) direct(words []string, text string) {
	r.t.Helper()
	switch words[0] {
	case "open":
		r.open(words[1])
	case "login":
		r.login(words[1], words[2])
	case "stop":
		r.stubs[words[1]].stop()
	case "start":
		r.stubs[words[1]].start()
	case "bye": // to everybody who is connected
		r.stubs[words[1]].tell("* BYE idle for too long")
		r.stubs[words[1]].hangUp()
	case "fail": // fail b1 VERB what
		r.stubs[words[1]].fail(words[2], strings.SplitN(text, " ", 4)[3])
	case "sees":
		want := strings.SplitN(text, " ", 3)[2]
		eventually(r.t, text, func() bool { return r.stubs[words[1]].saw(want) })
	case "never":
		if want := strings.SplitN(text, " ", 3)[2]; r.stubs[words[1]].saw(want) {
			r.t.Fatalf("%s has seen %q", words[1], want)
		}
	case "quorum":
		r.dir.mu.Lock()
		r.dir.down = words[1] == "off"
		r.dir.mu.Unlock()
	case "map": // map name server acl
		r.dir.set(record(words[1:]))
	case "barrier": // the same, when somebody waits for the map
		var once sync.Once
		r.dir.mu.Lock()
		r.dir.onBarrier = func() { once.Do(func() { r.dir.set(record(words[1:])) }) }
		r.dir.mu.Unlock()
	case "add": // add b2 name acl: a mailbox with its record
		name, _, acl := record([]string{words[2], words[1], words[3]})
		r.stubs[words[1]].add(name, acl)
	case "caps": // caps b1 +NAME
		r.stubs[words[1]].change(func(b *stub) { b.caps += " " + words[2][1:] })
	case "greets": // greets b1 PREAUTH
		r.stubs[words[1]].change(func(b *stub) { b.hello = words[2] })
	case "offers": // offers never NAME
		if list := r.srv.caps.offered().text; strings.Contains(list, words[2]) {
			r.t.Fatalf("offered: %s", list)
		}
	case "gone": // from the map
		eventually(r.t, text, func() bool { _, ok := r.dir.View().Get(mbox.Name(words[1])); return !ok })
	case "holds": // holds b1 name count
		if got := r.stubs[words[1]].count(mbox.Name(words[2])); fmt.Sprint(got) != words[3] {
			r.t.Fatalf("%s holds %d messages in %s, want %s", words[1], got, words[2], words[3])
		}
	default:
		r.t.Fatalf("unknown direction %q", text)
	}
}

// record reads "name server acl": %20 is a space in the name, + the separator in the ACL.
func record(words []string) (mbox.Name, mbox.Location, mbox.ACL) {
	name, _ := url.PathUnescape(words[0])
	return mbox.Name(name), mbox.At(mbox.Server(words[1]), "default"), mbox.ACL(strings.ReplaceAll(words[2], "+", "\t"))
}

// counted adds up those series of a metric that have all of some labels, each written as name=value.
func counted(from prometheus.Gatherer, metric string, labels ...string) (sum float64) {
	families, _ := from.Gather()
	for _, f := range families {
		for _, m := range f.GetMetric() {
			has := 0
			for _, l := range m.GetLabel() {
				if slices.Contains(labels, l.GetName()+"="+l.GetValue()) {
					has++
				}
			}
			if f.GetName() == metric && has == len(labels) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// selfSigned returns a TLS configuration for a server.
func selfSigned(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"fe"}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}
