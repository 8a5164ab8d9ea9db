package imap

import (
	"strings"
	"testing"
	"time"
)

// What has been gathered is sent while the client takes its time within a later command.
func TestGatheredBeforeAPause(t *testing.T) {
	for _, rest := range []string{"c SEARCH TEXT {3+}\r\n", "c SEARCH TEXT {3+}\r\nab", "c SEARCH TEXT {3+}\r\nabc", "c SEARCH TEXT {3+}\r\nabc AND", "c NOOP {3+}\r\n", "c NOOP {3+}\r\nabc",
		"c SEARCH TEXT {0+}\r\n"} {
		t.Run(strings.ReplaceAll(rest, "\r\n", "|"), func(t *testing.T) {
			inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
				d := r.login("A", "alice")
				d.send("a SELECT INBOX")
				d.until("a")
				d.patience = time.Second
				d.raw("b NOOP\r\n" + rest)
				d.until("b")
			})
		})
	}
}
