package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptrace"
	"net/textproto"
	"time"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
)

// stream runs f with a client, and a context that ends when nothing has arrived for the time given:
// a long answer may take as long as it likes while it comes. f calls the function given for each part; that the
// node is at work on the answer counts as well.
func (c *ctl) stream(cmd *cobra.Command, silence time.Duration, f func(context.Context, *admin.Client, func()) error) error {
	client, err := admin.NewClient(c.addr, nil)
	if err != nil {
		return usageError{err}
	}
	defer client.Close()
	errSilent := fmt.Errorf("the node said nothing for %v: %w", silence, context.DeadlineExceeded)
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	timer := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer timer.Stop()
	arrived := func() { timer.Reset(silence) }
	begun := time.Now()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error {
		arrived()
		fmt.Fprintf(cmd.ErrOrStderr(), "the node is at work, for %v so far\n", time.Since(begun).Round(time.Second))
		return nil
	}})
	err = f(ctx, client, arrived)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

// movingReader and movingWriter say that octets move.
type movingReader struct {
	io.Reader
	moved func()
}

func (r movingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.moved()
	return n, err
}

type movingWriter struct {
	io.Writer
	moved func()
}

func (w movingWriter) Write(p []byte) (int, error) {
	w.moved()
	return w.Writer.Write(p)
}
