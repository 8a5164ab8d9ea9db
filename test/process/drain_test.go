package process

import (
	"bufio"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"murder/test/harness"
	"murder/test/mupdateline"
)

// A frontend that is drained lets its clients go as when it is stopped, and takes them again afterwards.
func TestDrainedFrontendLetsClientsGo(t *testing.T) {
	c := harness.Start(t, harness.Options{Coordinators: 1})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d := desk{t, c, "c1"}
	for round := range 2 { // what is opened again can be closed again
		imap, err := net.Dial("tcp", c.Addr("f1", "imap"))
		if err != nil {
			t.Fatal(err)
		}
		defer imap.Close()
		imap.SetDeadline(time.Now().Add(patience))
		lines := bufio.NewScanner(imap)
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), "* OK") {
			t.Fatalf("round %d: greeting %q, %v", round, lines.Text(), lines.Err())
		}
		m, err := mupdateline.Dial(c.Addr("f1", "mupdate"))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		d.run("node", "drain", "f1", "--wait")
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), "* BYE") || lines.Scan() {
			t.Errorf("round %d: an idle IMAP client was told %q", round, lines.Text())
		}
		if row, err := m.Next(); err == nil && row.Kind != "BYE" {
			t.Errorf("round %d: an idle MUPDATE client was told %+v", round, row)
		}
		for _, service := range []string{"imap", "mupdate"} {
			if conn, err := net.Dial("tcp", c.Addr("f1", service)); err == nil {
				conn.Close()
				t.Errorf("round %d: a drained node takes clients for %s", round, service)
			}
		}
		if out := d.run("node", "status", "f1"); !strings.Contains(out, "draining") {
			t.Error(out)
		}
		d.run("node", "undrain", "f1")
		await(t, ctx, "clients again", func() error {
			conn, err := net.Dial("tcp", c.Addr("f1", "imap"))
			if err == nil {
				conn.Close()
			}
			return err
		})
		if err := c.AwaitReady(ctx, "f1"); err != nil {
			t.Fatal(err)
		}
	}
	if metrics, err := c.Metrics(ctx, "f1"); err != nil || len(metrics) == 0 {
		t.Error(len(metrics), err)
	}
}
