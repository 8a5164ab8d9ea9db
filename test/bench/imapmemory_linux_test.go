package bench

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// moreFiles raises the limit of descriptors for this process and those that it starts to n, or as far as it may,
// and returns it.
func moreFiles(b *testing.B, n uint64) uint64 {
	b.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	more := syscall.Rlimit{Cur: max(limit.Cur, n), Max: max(limit.Max, n)}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &more) == nil {
		return more.Cur
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	return limit.Cur
}

// How much memory does a session need that waits in IDLE with a mailbox open: a connection of the client's, in
// clear or with TLS, and one to the backend? MURDER_BENCH_SESSIONS, by default 5000 and 20000, are opened in
// steps; the memory is that which the process holds for itself (as the peers are measured), less than what
// it held before, MURDER_BENCH_REST seconds later: 15, in which sessions have been parked and what the logins have
// left behind has been given back. Lines begin with "#". And how much more does it hold while a message of 200 MB
// is read or stored?
func BenchmarkIMAPMemory(b *testing.B) {
	if testing.Short() {
		b.Skip("opens thousands of connections")
	}
	most := int(moreFiles(b, 100_000))/2 - 100 // a session has two
	counts := []int{5000, 20_000}
	if n := number("MURDER_BENCH_SESSIONS", 0); n > 0 {
		counts = []int{n}
	}
	for i, n := range counts {
		if n > most {
			fmt.Printf("# %d sessions instead of %d: no more descriptors are allowed\n", most, n)
			counts[i] = most
		}
	}
	for _, secure := range []bool{false, true} {
		b.Run(fmt.Sprintf("tls=%v", secure), func(b *testing.B) {
			w := newStubWorld(b)
			for _, t := range w.targets[1:] {
				if !wanted("MURDER_BENCH_TARGETS", t.name) {
					continue
				}
				addr, cfg := t.addr, (*tls.Config)(nil)
				if secure {
					if addr, cfg = t.tls, (&tls.Config{InsecureSkipVerify: true}); addr == "" {
						continue
					}
				}
				crowd := &crowdOf{addr: addr, cfg: cfg}
				if err := crowd.grow(10); err != nil { // what the first ones bring about is not theirs
					fmt.Printf("# %s: %v\n", t.name, err)
					continue
				}
				time.Sleep(2 * time.Second) // their garbage is collected by and by
				before, _ := memoryOf(t.pid)
				for _, n := range counts {
					if err := crowd.grow(n); err != nil {
						fmt.Printf("# %s: %v\n", t.name, err)
						break
					}
					time.Sleep(time.Duration(number("MURDER_BENCH_REST", 15)) * time.Second) // part of what is asked
					now, files := memoryOf(t.pid)
					each := float64(now-before) / float64(n-10) / 1000
					fmt.Printf("# %-10s tls=%-5v %5d idle sessions: %.1f kB each, %d descriptors, %.1f MB in all\n", t.name, secure, n, each, files, float64(now)/1e6)
					if t.name == "ours" {
						b.ReportMetric(each, fmt.Sprintf("kB/session-of-%d", n))
					}
				}
				crowd.close()
			}
			if !secure {
				large(b, w.targets[1])
			}
			for b.Loop() {
			}
		})
	}
}

// crowdOf are sessions in IDLE. Of each as little as possible is kept here.
type crowdOf struct {
	addr string
	cfg  *tls.Config
	mu   sync.Mutex
	all  []net.Conn
}

func (c *crowdOf) grow(n int) error {
	var next atomic.Int64
	next.Store(int64(len(c.all)))
	var failed atomic.Value
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			r := bufio.NewReader(nil)
			for failed.Load() == nil {
				i := next.Add(1)
				if i > int64(n) {
					return
				}
				nc, err := c.open(r, fmt.Sprintf("u%d", i%stubUsers+1))
				if err != nil {
					failed.Store(fmt.Errorf("session %d: %w", i, err))
					return
				}
				c.mu.Lock()
				c.all = append(c.all, nc)
				c.mu.Unlock()
			}
		})
	}
	wg.Wait()
	err, _ := failed.Load().(error)
	return err
}

func (c *crowdOf) open(r *bufio.Reader, user string) (net.Conn, error) {
	nc, err := net.DialTimeout("tcp", c.addr, 20*time.Second)
	if err != nil {
		return nil, err
	}
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	if c.cfg != nil {
		nc = tls.Client(nc, c.cfg)
	}
	r.Reset(nc)
	for _, step := range []struct{ say, until string }{
		{"", "* OK"}, {"a LOGIN " + user + " " + password + "\r\n", "a OK"}, {"b SELECT INBOX\r\n", "b OK"}, {"c IDLE\r\n", "+"},
	} {
		if _, err := io.WriteString(nc, step.say); err != nil {
			return nc, err
		}
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return nc, err
			}
			if strings.HasPrefix(line, step.until) {
				break
			}
			if strings.HasPrefix(line, "a ") || strings.HasPrefix(line, "b ") || strings.HasPrefix(line, "* BYE") {
				return nc, fmt.Errorf("%q", line)
			}
		}
	}
	return nc, nc.SetDeadline(time.Time{})
}

func (c *crowdOf) close() {
	for _, nc := range c.all {
		nc.Close()
	}
}

// large reads and stores a message of 200 MB, and looks how much the process grows meanwhile, garbage and all.
func large(b *testing.B, t target) {
	const size = 200 << 20
	block := bytes.Repeat([]byte("x"), 1<<16)
	for what, run := range map[string]func(nc net.Conn, r *bufio.Reader) error{
		"read": func(nc net.Conn, r *bufio.Reader) error {
			// Ten of 20 MB, because the stub has no larger ones.
			if _, err := io.WriteString(nc, "x FETCH 20971520 10 65536\r\n"); err != nil {
				return err
			}
			for {
				line, err := r.ReadSlice('\n')
				if err != nil && err != bufio.ErrBufferFull || bytes.HasPrefix(line, []byte("x OK")) {
					return err
				}
			}
		},
		"stored": func(nc net.Conn, r *bufio.Reader) error {
			fmt.Fprintf(nc, "x APPEND INBOX {%d+}\r\n", size)
			for range size / len(block) {
				if _, err := nc.Write(block); err != nil {
					return err
				}
			}
			io.WriteString(nc, "\r\n")
			line, err := r.ReadString('\n')
			if err == nil && !strings.HasPrefix(line, "x OK") {
				err = fmt.Errorf("%q", line)
			}
			return err
		},
	} {
		r := bufio.NewReader(nil)
		c := &crowdOf{addr: t.addr}
		nc, err := c.open(r, "u1")
		if err != nil {
			b.Fatal(err)
		}
		io.WriteString(nc, "DONE\r\n")
		if _, err := r.ReadString('\n'); err != nil {
			b.Fatal(err)
		}
		time.Sleep(time.Second) // what came before is collected by and by
		before, _ := memoryOf(t.pid)
		most := before
		done := make(chan error, 1)
		go func() { done <- run(nc, r) }()
		for running := true; running; {
			select {
			case err := <-done:
				if err != nil {
					b.Fatal(what, err)
				}
				running = false
			case <-time.After(5 * time.Millisecond):
			}
			now, _ := memoryOf(t.pid)
			most = max(most, now)
		}
		nc.Close()
		fmt.Printf("# 200 MB %s: %d kB more at most\n", what, (most-before)/1000)
		b.ReportMetric(float64(most-before)/1000, "kB-more-for-200-MB-"+what)
	}
}
