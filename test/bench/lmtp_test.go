package bench

import (
	"fmt"
	"testing"

	"murder/test/lmtpline"
)

// What of a backend's rate of deliveries of 2 kB is left through the frontend, for one recipient,
// for two on one backend, and for two on two (for which the backend's own rate with two is the
// comparison)?
func BenchmarkLMTP(b *testing.B) {
	w := start(b)
	cases := []struct {
		name       string
		recipients []string
	}{
		{"one", []string{"u1"}},
		{"two-on-one-backend", []string{"u1", "u3"}},
		{"two-on-two-backends", []string{"u1", "u2"}},
	}
	for _, conns := range []int{1, 8} {
		for _, c := range cases {
			for _, t := range []target{{name: "direct", addr: w.backendLMTP(0)}, {name: "proxy", addr: w.cluster.Addr("f1", "lmtp")}} {
				to := c.recipients
				if t.name == "direct" && len(to) == 2 {
					to = []string{"u1", "u3"}
				}
				b.Run(fmt.Sprintf("conns=%d/recipients=%s/path=%s", conns, c.name, t.name), func(b *testing.B) {
					open := func(int) (*lmtpline.Conn, error) { return lmtpline.Dial(t.addr) }
					measure(b, conns, open, func(c *lmtpline.Conn) { c.Close() }, func(c *lmtpline.Conn, _ int) error {
						replies, err := c.Deliver(message(), to...)
						for _, r := range replies {
							if r.Code != 250 {
								err = fmt.Errorf("delivery: %s", r)
							}
						}
						return err
					})
				})
			}
		}
	}
}
