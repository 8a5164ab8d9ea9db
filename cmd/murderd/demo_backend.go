package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"murder/cmd/murderd/dev"
	"murder/internal/demo"
	"murder/internal/mbox"
	"murder/internal/obs"
	"murder/mupdate"
)

// newDemoBackend runs a small mail server in the place of a Cyrus backend, for murderd dev.
func newDemoBackend() *cobra.Command {
	cmd := &cobra.Command{Use: "demo-backend --config FILE", Short: "Run a small backend for murderd dev", Args: cobra.NoArgs, Hidden: true}
	file := cmd.Flags().String("config", "", "configuration `file`, as murderd dev writes it")
	withParent := cmd.Flags().Bool("with-parent", false, "end when standard input closes")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithCancel(cmd.Context())
		defer cancel()
		if *withParent {
			go func() {
				io.Copy(io.Discard, os.Stdin)
				cancel()
			}()
		}
		var c dev.DemoBackend
		data, err := os.ReadFile(*file)
		if err == nil {
			err = json.Unmarshal(data, &c)
		}
		if err != nil {
			return fmt.Errorf("reading the configuration: %w", err)
		}
		return runDemoBackend(ctx, &c)
	}
	return cmd
}

func runDemoBackend(ctx context.Context, c *dev.DemoBackend) error {
	log, _, err := obs.NewLogger(os.Stderr, c.LogLevel, "text")
	if err != nil {
		return err
	}
	r := &registrar{name: mbox.Server(c.Name), cfg: mupdate.ClientConfig{
		Addresses: c.MUPDATE, DialTimeout: time.Second, SASL: mupdate.Password(c.Login.Name, c.Login.Password),
	}}
	defer r.close()
	// Like ctl_mboxlist -m: what the map says about a server that has just started, with nothing, is
	// of an earlier run.
	if err := r.forget(ctx); err != nil {
		return fmt.Errorf("clearing the map of earlier mailboxes: %w", err)
	}
	b := demo.New(demo.Config{
		Name: r.name, Namespace: mbox.Namespace{Alt: c.Alt, Dot: c.Dot}, Registrar: r, Admins: c.Admins, Users: c.Users, Logger: log,
	})
	failed := make(chan error, 2)
	for _, s := range []struct {
		addr  string
		serve func(net.Listener) error
	}{{c.IMAP, b.ServeIMAP}, {c.LMTP, b.ServeLMTP}} {
		ln, err := net.Listen("tcp", s.addr)
		if err != nil {
			b.Close()
			return err
		}
		go func() { failed <- s.serve(ln) }()
	}
	log.Info("ready", "backend", c.Name, "imap", c.IMAP, "lmtp", c.LMTP)
	select {
	case <-ctx.Done():
		return b.Close()
	case err := <-failed:
		b.Close()
		return err
	}
}

// registrar tells the map of mailboxes through MUPDATE. When the server that it talks to is lost it
// says the same to another: RESERVE and ACTIVATE may be repeated. The backend makes its calls one at
// a time.
type registrar struct {
	name   mbox.Server
	cfg    mupdate.ClientConfig
	client *mupdate.Client
}

// retryPause lies between two attempts to reach any server.
const retryPause = 50 * time.Millisecond

// do says something until a server has answered it.
func (r *registrar) do(ctx context.Context, say func(*mupdate.Client) error) error {
	for {
		var err error
		if r.client == nil {
			r.client, err = mupdate.Dial(ctx, r.cfg)
		}
		if err == nil {
			err = say(r.client)
		}
		var refused *mupdate.ResponseError
		if err == nil || errors.As(err, &refused) && refused.Status != "BYE" || errors.Is(err, mupdate.ErrNoMechanism) {
			return err
		}
		r.close()
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(retryPause):
		}
	}
}

func (r *registrar) close() {
	if r.client != nil {
		r.client.Close()
		r.client = nil
	}
}

// Create implements demo.Registrar.
func (r *registrar) Create(ctx context.Context, name mbox.Name, loc mbox.Location, acl mbox.ACL) error {
	if err := r.do(ctx, func(c *mupdate.Client) error { return c.Reserve(ctx, name, loc) }); err != nil {
		return err
	}
	return r.do(ctx, func(c *mupdate.Client) error { return c.Activate(ctx, name, loc, acl) })
}

// Delete implements demo.Registrar.
func (r *registrar) Delete(ctx context.Context, name mbox.Name) error {
	return r.do(ctx, func(c *mupdate.Client) error { return c.Delete(ctx, name) })
}

// forget deletes every record of this server.
func (r *registrar) forget(ctx context.Context) error {
	var names []mbox.Name
	err := r.do(ctx, func(c *mupdate.Client) error {
		names = nil
		return c.List(ctx, string(r.name)+"!", func(e mbox.Entry) error {
			names = append(names, e.Name)
			return nil
		})
	})
	for _, name := range names {
		err = errors.Join(err, r.Delete(ctx, name))
	}
	return err
}
