package bench

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"murder/test/lmtpline"
)

// What of a backend's rate of deliveries of 2 kB is left through the frontend, for one recipient, for
// two on one backend, and for two on two (for which the backend's own rate with two is the comparison)?
// And what do others leave of it: haproxy, which passes octets to one backend, Cyrus's own frontend, and
// Dovecot's proxy?
func BenchmarkLMTP(b *testing.B) {
	w := start(b)
	direct, proxy := target{name: "direct", addr: w.backendLMTP(0)}, target{name: "proxy", addr: w.cluster.Addr("f1", "lmtp")}
	cases := []struct {
		name       string
		recipients []string
		paths      []target
	}{
		{"one", []string{"u1"}, slices.Concat([]target{direct}, w.haproxy(), w.otherLMTP(b), []target{proxy})},
		{"two-on-one-backend", []string{"u1", "u3"}, slices.Concat([]target{direct}, w.haproxy(), w.otherLMTP(b), []target{proxy})},
		{"two-on-two-backends", []string{"u1", "u2"}, slices.Concat([]target{direct}, w.otherLMTP(b), []target{proxy})},
	}
	for _, conns := range []int{1, 8} {
		for _, c := range cases {
			for _, t := range c.paths {
				to := c.recipients
				if t == direct && len(to) == 2 {
					to = []string{"u1", "u3"}
				}
				b.Run(fmt.Sprintf("conns=%d/recipients=%s/path=%s", conns, c.name, t.name), func(b *testing.B) {
					busy := w.cpu("f1")
					measure(b, conns, dialLMTP(t.addr), shutLMTP, deliver(message(), to...))
					if t == proxy {
						b.ReportMetric(float64((w.cpu("f1")-busy).Microseconds())/float64(b.N), "cpu-µs/op")
					}
				})
			}
		}
	}
}

func dialLMTP(addr string) func(int) (*lmtpline.Conn, error) {
	return func(int) (*lmtpline.Conn, error) { return lmtpline.Dial(addr) }
}

func shutLMTP(c *lmtpline.Conn) { c.Close() }

func deliver(message string, to ...string) func(*lmtpline.Conn, int) error {
	return func(c *lmtpline.Conn, _ int) error {
		replies, err := c.Deliver(message, to...)
		for _, r := range replies {
			if r.Code != 250 {
				err = fmt.Errorf("delivery: %s", r)
			}
		}
		return err
	}
}

// How much memory does a message of 50 MB for 50 recipients on two backends take in the frontend?
func BenchmarkLMTPLarge(b *testing.B) {
	const size, recipients = 50 << 20, 50
	w := start(b)
	var to []string
	for i := range recipients {
		to = append(to, fmt.Sprintf("u%d+%d", 1+i%2, i)) // the folder is not there: it goes to INBOX
	}
	text := messageOf(size)
	for _, t := range []target{{name: "direct", addr: w.backendLMTP(0)}, {name: "proxy", addr: w.cluster.Addr("f1", "lmtp")}} {
		to := slices.Clone(to)
		if t.name == "direct" {
			for i := range to {
				to[i] = fmt.Sprintf("u1+%d", i)
			}
		}
		b.Run("path="+t.name, func(b *testing.B) {
			b.SetBytes(size)
			before := w.memory("f1", true)
			measure(b, 1, dialLMTP(t.addr), shutLMTP, deliver(text, to...))
			if t.name == "proxy" {
				peak := w.memory("f1", false)
				b.ReportMetric(float64(peak)/(1<<20), "peak-MB")
				b.ReportMetric(float64(peak-before)/(1<<20), "more-MB")
			}
		})
	}
}

// cpu is the processor time that a node has used.
func (w *world) cpu(id string) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.cluster.PID(id)))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// memory is the most that a node has had resident since the last reset, in octets.
func (w *world) memory(id string, reset bool) int64 {
	dir := fmt.Sprintf("/proc/%d/", w.cluster.PID(id))
	if reset {
		os.WriteFile(dir+"clear_refs", []byte("5"), 0) // the peak falls to what is there
	}
	text, _ := os.ReadFile(dir + "status")
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}
