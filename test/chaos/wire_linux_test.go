package chaos

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wire joins network namespaces, one for each node, as a switch does; the packets go through this process,
// which can lose and delay them, in one direction too. It needs no more of the kernel than TUN: delay and loss
// by qdisc are not everywhere.
type wire struct {
	mu    sync.Mutex
	rnd   *rand.Rand
	taps  map[string]*tap // by address
	ids   map[string]*tap
	rules map[[2]string]rule // from, to
	all   rule               // for every pair without a rule of its own
}

// rule is what happens to packets from one node to another.
type rule struct {
	drop          bool
	loss          float64
	delay, jitter time.Duration
}

// tap is one end of the wire.
type tap struct {
	id, host string
	ns       *os.File // nil for the namespace of the test
	dev      *os.File
	out      chan []byte
}

// outside is the test itself, which is never cut off: it stands for clients.
const outside = "outside"

func newWire(rnd *rand.Rand) *wire {
	return &wire{rnd: rnd, taps: map[string]*tap{}, ids: map[string]*tap{}, rules: map[[2]string]rule{}}
}

// inside runs f in a network namespace. What f starts stays there.
func inside(ns *os.File, f func() error) error {
	if ns == nil {
		return f()
	}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering a network namespace: %w", err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back) // the thread stays locked, and dies with the goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// newNamespace makes a network namespace that lives as long as the file is open.
func newNamespace() (ns *os.File, err error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	if ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return nil, err
	}
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	runtime.UnlockOSThread()
	return ns, nil
}

// loopbackApart leaves 127.0.0.1 alone on the loopback interface, so that the rest of 127/8 can lie behind
// wires: our programs take these addresses for safe.
const loopbackApart = `ip link set lo up
ip addr del 127.0.0.1/8 dev lo || true
ip addr add 127.0.0.1/32 dev lo
echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
echo 1 >/proc/sys/net/ipv4/conf/default/route_localnet
`

// plug connects a namespace under an address.
func (w *wire) plug(t *testing.T, id, host string, ns *os.File) {
	t.Helper()
	p := &tap{id: id, host: host, ns: ns, out: make(chan []byte, 4096)}
	err := inside(ns, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening TUN: %w", err)
		}
		req, err := unix.NewIfreq("wire0")
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			return fmt.Errorf("making an interface: %w", err)
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
		p.dev = os.NewFile(uintptr(fd), "wire0")
		out, err := exec.Command("sh", "-ec", loopbackApart+"ip addr add "+host+"/24 dev wire0 scope global\nip link set wire0 up").CombinedOutput()
		if err != nil {
			return fmt.Errorf("setting up the interface: %w: %s", err, out)
		}
		return nil
	})
	must(t, err)
	w.mu.Lock()
	w.taps[host], w.ids[id] = p, p
	w.mu.Unlock()
	go w.carry(p)
	go func() {
		for b := range p.out {
			p.dev.Write(b)
		}
	}()
	t.Cleanup(func() { p.dev.Close() })
}

// carry takes what comes from one end to others.
func (w *wire) carry(from *tap) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.dev.Read(buf)
		if err != nil {
			return
		}
		if n < 20 || buf[0]>>4 != 4 {
			continue
		}
		w.mu.Lock()
		to := w.taps[fmt.Sprintf("%d.%d.%d.%d", buf[16], buf[17], buf[18], buf[19])]
		if to == nil {
			w.mu.Unlock()
			continue
		}
		r, ok := w.rules[[2]string{from.id, to.id}]
		if !ok && from.id != outside && to.id != outside {
			r = w.all
		}
		lost := r.drop || r.loss > 0 && w.rnd.Float64() < r.loss
		delay := r.delay
		if r.jitter > 0 {
			delay += time.Duration(w.rnd.Int64N(int64(r.jitter)))
		}
		w.mu.Unlock()
		if lost {
			continue
		}
		packet := append([]byte(nil), buf[:n]...)
		if delay == 0 {
			to.deliver(packet)
			continue
		}
		time.AfterFunc(delay, func() { to.deliver(packet) })
	}
}

func (p *tap) deliver(packet []byte) {
	select {
	case p.out <- packet:
	default: // like any switch
	}
}

// cut drops what one node sends to others. What they send arrives.
func (w *wire) cut(from string, to ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range to {
		w.rules[[2]string{from, o}] = rule{drop: true}
	}
}

// cutBoth cuts both ways.
func (w *wire) cutBoth(id string, others ...string) {
	w.cut(id, others...)
	for _, o := range others {
		w.cut(o, id)
	}
}

// split parts the switch in two.
func (w *wire) split(a, b []string) {
	for _, id := range a {
		w.cutBoth(id, b...)
	}
}

// everywhere applies a rule between all nodes.
func (w *wire) everywhere(r rule) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = r
}

func (w *wire) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.rules)
	w.all = rule{}
}

func hostOf(addr string) string {
	host, _, _ := strings.Cut(addr, ":")
	return host
}
