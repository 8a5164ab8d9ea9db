package mupdate

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/flate"

	"murder/internal/inflate"
)

// startTLS begins TLS (RFC 3656 section 4.10). What was pipelined behind the command came in clear
// and is thrown away. A failed handshake ends this connection only.
func (c *conn) startTLS(f *frame, _ []string) error {
	word := "BAD"
	if c.srv.cfg.StrictRFC {
		word = "NO"
	}
	switch {
	case c.srv.cfg.TLS == nil:
		c.reply(f.tag, "BAD", unrecognized)
		return nil
	case c.loggedIn:
		c.reply(f.tag, word, "STARTTLS comes before authentication")
		return nil
	case c.tls != nil:
		c.reply(f.tag, word, "TLS is already active")
		return nil
	}
	c.reply(f.tag, "OK", "Begin TLS negotiation now")
	if err := c.flush(); err != nil {
		return err
	}
	c.in.take()
	if err := c.handshake(tls.Server(c.base, c.srv.cfg.TLS)); err != nil {
		return err
	}
	c.greet()
	return nil
}

func (c *conn) handshake(tc *tls.Conn) error {
	deadline := c.started.Add(c.srv.cfg.LoginTimeout)
	c.base.SetDeadline(deadline)
	if err := c.interrupted(); err != nil {
		return errLogout
	}
	if err := tc.Handshake(); err != nil {
		c.log.Info("TLS handshake failed", "err", err)
		c.out.buf = nil
		return fmt.Errorf("TLS handshake: %w", err)
	}
	state := tc.ConnectionState()
	c.tls, c.nc = &state, tc
	c.in.r, c.out.w = tc, tc
	return nil
}

// compress begins DEFLATE in both directions behind the CRLF of the OK (Cyrus: mupdate.c,
// cmd_compress). It asks for login first, which Cyrus does not: a stranger's octets are not worth
// expanding.
func (c *conn) compress(f *frame, args []string) error {
	switch {
	case c.deflate:
		c.reply(f.tag, "BAD", "DEFLATE active via COMPRESS")
	case !strings.EqualFold(args[0], "DEFLATE"):
		c.reply(f.tag, "NO", "Unknown COMPRESS algorithm")
	case !c.loggedIn:
		c.reply(f.tag, "NO", loginFirst)
	default:
		c.reply(f.tag, "OK", "DEFLATE active")
		if err := c.flush(); err != nil {
			return err
		}
		c.deflate = true
		deflateLayer(&c.in, &c.out)
	}
	return nil
}

// deflateLayer puts DEFLATE around what in reads and out writes. Each flush is compressed by itself,
// so that a quiet connection keeps no compressor.
func deflateLayer(in *input, out *output) {
	rest := in.take()
	counted := &countingReader{r: io.MultiReader(bytes.NewReader(rest), in.r)}
	in.r = &inflater{r: inflate.NewReader(counted), in: counted}
	out.w = deflater{out.w}
}

type deflater struct{ w io.Writer }

func (d deflater) Write(p []byte) (int, error) {
	var b bytes.Buffer
	if err := flate.StatelessDeflate(&b, p, false, nil); err != nil {
		return 0, err
	}
	if _, err := d.w.Write(b.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

var errBomb = errors.New("compressed input expands too much")

// inflater bounds the expansion: DEFLATE can make 1000 octets of one, and honest MUPDATE makes 20.
type inflater struct {
	r   io.Reader
	in  *countingReader
	out int64
}

const (
	expansionRatio = 200
	expansionFree  = 1 << 20
)

func (i *inflater) Read(p []byte) (int, error) {
	n, err := i.r.Read(p)
	i.out += int64(n)
	if i.out > expansionFree+expansionRatio*i.in.n {
		return 0, errBomb
	}
	return n, err
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
