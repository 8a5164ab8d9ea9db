package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"murder/internal/mbox"
	"murder/mupdate"
	"murder/test/harness"
	"murder/test/history"
)

const (
	admin, password = "cyrus", "labpass"
	// patience bounds how long a cluster may take to go on after a loss.
	patience = 30 * time.Second
	names    = 5
)

// long skips a story that takes its time.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("MURDER_CHAOS") == "" {
		t.Skip("a long story: make test-chaos tells it")
	}
}

// crowd is clients at every node that write and read the same few names by MUPDATE.
type crowd struct {
	*report
	hist *history.History
	stop context.CancelFunc
	wg   sync.WaitGroup
	// names are a crowd's own, so that it begins with an empty map.
	prefix string
}

// crowds counts those of this process.
var crowds atomic.Int64

func begin(r *report, c *harness.Cluster, seed uint64) *crowd {
	ctx, stop := context.WithCancel(context.Background())
	k := &crowd{report: r, hist: history.New(), stop: stop, prefix: fmt.Sprint("chaos", crowds.Add(1))}
	client := 0
	for _, id := range c.Nodes() {
		for _, work := range []func(context.Context, int, string, *mupdate.Client, *rand.Rand) error{k.write, k.read, k.read} {
			client++
			number, addr := client, c.Addr(id, "mupdate")
			k.wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(number), seed))
				for ctx.Err() == nil {
					m, err := mupdate.Dial(ctx, mupdate.ClientConfig{Addresses: []string{addr}, DialTimeout: time.Second, Timeout: 5 * time.Second,
						SASL: mupdate.Password(admin, password)})
					for err == nil && ctx.Err() == nil {
						time.Sleep(time.Duration(rnd.IntN(30)) * time.Millisecond) // how fast a client works
						err = work(ctx, number, id, m, rnd)
					}
					if m != nil {
						m.Close()
					}
					time.Sleep(50 * time.Millisecond) // and comes again
				}
			})
		}
	}
	r.t.Cleanup(func() { stop(); k.wg.Wait() })
	return k
}

// place is where a name lives: a server of its own, so that LIST can ask for it alone.
func (k *crowd) place(i int) (mbox.Name, mbox.Location) {
	return mbox.Name(fmt.Sprintf("user.%s-%d", k.prefix, i)), mbox.At(mbox.Server(fmt.Sprintf("%s-%d.test", k.prefix, i)), "p")
}

func (k *crowd) write(_ context.Context, client int, id string, m *mupdate.Client, rnd *rand.Rand) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(100+rnd.IntN(3000))*time.Millisecond)
	defer cancel()
	name, at := k.place(rnd.IntN(names))
	op := history.Op{Name: name, Kind: history.Set, By: id}
	sent := k.hist.Now()
	op.Value = fmt.Sprintf("c%d-%d\tl\t", client, sent.Nanoseconds())
	var err error
	if rnd.IntN(4) == 0 {
		op.Kind, op.Value = history.Delete, ""
		err = m.Delete(ctx, name)
	} else {
		err = m.Activate(ctx, name, at, mbox.ACL(op.Value))
	}
	k.hist.Add(client, sent, op, err) // NO may stand for an unknown outcome, and stays open
	var refusal *mupdate.ResponseError
	if errors.As(err, &refusal) && refusal.Status == "NO" {
		return nil
	}
	return err
}

// read asks by LIST: no node answers it from a copy that it could not confirm.
func (k *crowd) read(_ context.Context, client int, id string, m *mupdate.Client, rnd *rand.Rand) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	name, at := k.place(rnd.IntN(names))
	op := history.Op{Name: name, Kind: history.Read, By: id}
	sent := k.hist.Now()
	err := m.List(ctx, string(at.Server()), func(e mbox.Entry) error {
		if e.Name == name && e.State == mbox.Active {
			op.Value = string(e.ACL)
		}
		return nil
	})
	k.hist.Add(client, sent, op, err)
	var refusal *mupdate.ResponseError
	if errors.As(err, &refusal) && refusal.Status == "NO" {
		return nil
	}
	return err
}

// during lets the crowd work for a while under a name.
func (k *crowd) during(what string, d time.Duration) {
	k.t.Logf("%6.2f s: %s", k.hist.Now().Seconds(), what)
	time.Sleep(d) // it is the load
}

// under lets the crowd work for a while under a fault, of node id.
func (k *crowd) under(fault, id string, d time.Duration) {
	k.fault(fault)
	k.during(fault+" ("+id+")", d)
}

// end stops the crowd and judges what it saw.
func (k *crowd) end() {
	k.t.Helper()
	k.check(k.judge())
	if k.reads < 100 || k.writes < 50 {
		k.t.Error("that is too little to prove anything")
	}
}

// judge stops the crowd and says whether one map could have shown it all that it saw.
func (k *crowd) judge() error {
	k.stop()
	k.wg.Wait()
	k.recorded(k.hist)
	return k.hist.Check()
}

func leaderOf(t *testing.T, c *harness.Cluster) string {
	t.Helper()
	id, err := c.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
