package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-smtp"

	"murder/cluster/admin"
	"murder/internal/config"
	"murder/internal/mbox"
)

// step is one thing that the tour shows. say is the promise; do keeps it and tells what came out.
type step struct {
	say string
	do  func(context.Context) (string, error)
}

const stepLimit = 60 * time.Second

// tour plays the guided tour. It fails with the first promise that was not kept.
func (r *runner) tour(ctx context.Context) error {
	t := &guide{runner: r, subject: "A message for two backends, " + time.Now().Format(time.RFC3339Nano)}
	users := r.o.Users
	b1, b2 := r.plan.servers[0], r.plan.servers[1]
	steps := []step{
		{fmt.Sprintf("Create a mailbox for %s on %s and one for %s on %s", users[0].Name, b1.Name, users[1].Name, b2.Name), t.create},
		{"Every coordinator and frontend knows where they are", t.known},
		{"Deliver to both with one LMTP transaction at the frontend", t.deliver},
		{"Read both messages by IMAP at the frontend", t.read},
		{"Kill the leading coordinator (SIGKILL)", t.killLeader},
		{"Read on while nobody leads", t.read},
		{fmt.Sprintf("Create a mailbox for %s during the failover", users[2].Name), t.createDuringFailover},
		{"Start the killed coordinator again", t.restart},
		{"All copies of the map are equal", t.equal},
	}
	r.print("The tour:\n")
	for i, s := range steps {
		r.print("%d. %s", i+1, s.say)
		limited, cancel := context.WithTimeout(ctx, stepLimit)
		came, err := s.do(limited)
		cancel()
		if err != nil {
			r.print("   FAILED: %v\n", err)
			return fmt.Errorf("the tour broke a promise: %s: %w", s.say, err)
		}
		r.print("   %s\n", came)
	}
	r.print("Every promise was kept.")
	return nil
}

// guide is what the tour remembers from step to step.
type guide struct {
	*runner
	subject string
	victim  *node
	killed  time.Time
}

func (g *guide) admin() Account { return g.o.Admins[0] }

func (g *guide) namespace() *mbox.Namespace {
	c, err := g.plan.configure(g.plan.frontend())
	if err != nil { // it was configured before
		return &mbox.Namespace{}
	}
	return &mbox.Namespace{Alt: c.Namespace.Alt, Dot: !c.Namespace.UnixHierarchy, Virtual: c.Namespace.VirtDomains, DefaultDomain: c.Namespace.DefaultDomain}
}

func (g *guide) inbox(a Account) mbox.Name { return g.namespace().Inbox(mbox.UserID(a.Name)) }

func (g *guide) create(ctx context.Context) (string, error) {
	for i := range 2 {
		if err := g.createOn(ctx, g.plan.servers[i], g.o.Users[i]); err != nil {
			return "", err
		}
	}
	return "created by the administrator on each backend, which told the map before it said OK", nil
}

// createOn makes a user's INBOX on a backend, as its administrator would.
func (g *guide) createOn(ctx context.Context, b Backend, user Account) error {
	c, err := g.login(ctx, net.JoinHostPort(b.Host, strconv.Itoa(b.IMAP)), g.admin())
	if err != nil {
		return err
	}
	defer c.Close()
	name, ok := g.namespace().View(mbox.UserID(g.admin().Name), true, false).External(g.inbox(user))
	if !ok {
		return fmt.Errorf("%s has no name for an administrator", g.inbox(user))
	}
	err = c.Create(string(name), nil).Wait()
	var refused *imap.Error
	if errors.As(err, &refused) && strings.Contains(strings.ToLower(refused.Text), "exist") {
		return nil // of an earlier tour; where it is, the next step asks
	}
	if err != nil {
		return fmt.Errorf("creating %s on %s: %w", name, b.Name, err)
	}
	return nil
}

// known asks every node for the record of both mailboxes.
func (g *guide) known(ctx context.Context) (string, error) {
	asked := 0
	for _, n := range g.plan.nodes {
		if n.role == "" {
			continue
		}
		asked++
		for i := range 2 {
			if err := g.recordAt(ctx, n, g.inbox(g.o.Users[i]), g.plan.servers[i].Name); err != nil {
				return "", err
			}
		}
	}
	return fmt.Sprintf("%d nodes asked: %s is at %s, %s is at %s", asked, g.inbox(g.o.Users[0]), g.plan.servers[0].Name,
		g.inbox(g.o.Users[1]), g.plan.servers[1].Name), nil
}

func (g *guide) recordAt(ctx context.Context, n *node, name mbox.Name, server string) error {
	client, err := g.client(n)
	if err != nil {
		return err
	}
	defer client.Close()
	m, err := client.Mailbox(ctx, string(name), true)
	if err != nil {
		return fmt.Errorf("asking %s for %s: %w", n.id, name, err)
	}
	if m.Server != server || m.State != mbox.Active.String() {
		return fmt.Errorf("%s says that %s is %s at %q, not active at %q", n.id, name, m.State, m.Server, server)
	}
	return nil
}

// deliver sends one message to two users in one transaction; each must be accepted.
func (g *guide) deliver(ctx context.Context) (string, error) {
	addr := g.plan.frontend().addr["lmtp"]
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	c := smtp.NewClientLMTP(conn)
	defer c.Close()
	if err := c.Hello("tour.example.org"); err != nil {
		return "", err
	}
	if err := c.Mail("tour@example.org", nil); err != nil {
		return "", fmt.Errorf("MAIL FROM: %w", err)
	}
	for i := range 2 {
		if err := c.Rcpt(g.o.Users[i].Name, nil); err != nil {
			return "", fmt.Errorf("RCPT TO %s: %w", g.o.Users[i].Name, err)
		}
	}
	w, err := c.Data()
	if err != nil {
		return "", fmt.Errorf("DATA: %w", err)
	}
	fmt.Fprintf(w, "From: tour@example.org\r\nTo: %s, %s\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <%d@tour.example.org>\r\n\r\nHello from the tour.\r\n",
		g.o.Users[0].Name, g.o.Users[1].Name, g.subject, time.Now().Format(time.RFC1123Z), time.Now().UnixNano())
	accepted, err := w.CloseWithLMTPResponse()
	if err != nil {
		return "", fmt.Errorf("sending the message: %w", err)
	}
	if len(accepted) != 2 {
		return "", fmt.Errorf("%d of 2 recipients were accepted", len(accepted))
	}
	return "one message, two recipients, two answers 250 from two backends", nil
}

// read finds the message of the tour in the INBOX of both users.
func (g *guide) read(ctx context.Context) (string, error) {
	addr := g.plan.frontend().addr["imap"]
	for i := range 2 {
		if err := g.find(ctx, addr, g.o.Users[i]); err != nil {
			return "", fmt.Errorf("reading as %s: %w", g.o.Users[i].Name, err)
		}
	}
	return fmt.Sprintf("%s and %s each find %q", g.o.Users[0].Name, g.o.Users[1].Name, "A message for two backends"), nil
}

func (g *guide) find(ctx context.Context, addr string, user Account) error {
	c, err := g.login(ctx, addr, user)
	if err != nil {
		return err
	}
	defer c.Close()
	sel, err := c.Select("INBOX", nil).Wait()
	if err != nil {
		return fmt.Errorf("SELECT: %w", err)
	}
	if sel.NumMessages == 0 {
		return errors.New("INBOX is empty")
	}
	section := &imap.FetchItemBodySection{Specifier: imap.PartSpecifierHeader, Peek: true}
	messages, err := c.Fetch(imap.SeqSetNum(sel.NumMessages), &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{section}}).Collect()
	if err != nil {
		return fmt.Errorf("FETCH: %w", err)
	}
	if len(messages) != 1 || !bytes.Contains(messages[0].FindBodySection(section), []byte("Subject: "+g.subject)) {
		return errors.New("the newest message is not that of the tour")
	}
	return c.Logout().Wait()
}

func (g *guide) login(ctx context.Context, addr string, a Account) (*imapclient.Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	c := imapclient.New(conn, nil)
	if err := c.Login(a.Name, a.Password).Wait(); err != nil {
		c.Close()
		return nil, fmt.Errorf("logging in at %s as %s: %w", addr, a.Name, err)
	}
	return c, nil
}

// killLeader ends the leader without a word of warning.
func (g *guide) killLeader(ctx context.Context) (string, error) {
	leader, err := g.leader(ctx, "")
	if err != nil {
		return "", err
	}
	g.victim, g.killed = leader, time.Now()
	if err := g.kill(leader.id); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is gone", leader.id), nil
}

// leader waits until a coordinator that runs names a leader other than not.
func (g *guide) leader(ctx context.Context, not string) (*node, error) {
	for {
		for _, n := range g.plan.ofRole(config.Coordinator) {
			if n.id == not {
				continue
			}
			if s, err := g.status(ctx, n); err == nil && s.Leader != "" && s.Leader != not {
				i := slices.IndexFunc(g.plan.nodes, func(m *node) bool { return m.id == s.Leader })
				if i >= 0 {
					return g.plan.nodes[i], nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no coordinator leads: %w", ctx.Err())
		case <-time.After(pollPause):
		}
	}
}

func (g *guide) status(ctx context.Context, n *node) (admin.Status, error) {
	client, err := g.client(n)
	if err != nil {
		return admin.Status{}, err
	}
	defer client.Close()
	return client.Status(ctx)
}

// createDuringFailover makes a mailbox at once after the kill. The client sees no error, only the
// time that an election takes.
func (g *guide) createDuringFailover(ctx context.Context) (string, error) {
	asked := time.Since(g.killed)
	if err := g.createOn(ctx, g.plan.servers[0], g.o.Users[2]); err != nil {
		return "", err
	}
	gap := time.Since(g.killed)
	next, err := g.leader(ctx, g.victim.id)
	if err != nil {
		return "", err
	}
	if err := g.recordAt(ctx, g.plan.frontend(), g.inbox(g.o.Users[2]), g.plan.servers[0].Name); err != nil {
		return "", err
	}
	return fmt.Sprintf("asked %s after the kill, done %s after it; now %s leads", milli(asked), milli(gap), next.id), nil
}

func (g *guide) restart(ctx context.Context) (string, error) {
	began := time.Now()
	if err := g.start(g.victim); err != nil {
		return "", err
	}
	if err := g.awaitNode(ctx, g.victim); err != nil {
		return "", err
	}
	if err := g.writeEnv(); err != nil { // its process is another one
		return "", err
	}
	return fmt.Sprintf("%s is ready again after %s, with what happened meanwhile", g.victim.id, milli(time.Since(began))), g.recordAt(ctx, g.victim, g.inbox(g.o.Users[2]), g.plan.servers[0].Name)
}

// equal compares the digests of all copies at one index.
func (g *guide) equal(ctx context.Context) (string, error) {
	client, err := g.client(g.plan.nodes[0])
	if err != nil {
		return "", err
	}
	defer client.Close()
	want := g.o.Coordinators + g.o.Frontends
	for {
		report, err := client.Digest(ctx)
		if err == nil && report.Equal && len(report.Nodes) == want {
			return fmt.Sprintf("%d copies, each with digest %s at index %d", want, report.Nodes[0].Digest, report.Index), nil
		}
		if err == nil {
			err = fmt.Errorf("they differ or do not answer: %+v", report.Nodes)
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-time.After(pollPause):
		}
	}
}

func milli(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
