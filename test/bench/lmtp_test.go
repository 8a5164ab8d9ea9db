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
