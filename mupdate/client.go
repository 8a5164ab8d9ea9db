package mupdate

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-sasl"

	"murder/internal/auth"
)

// TLSMode says how a client secures its connection.
type TLSMode uint8

const (
	NoTLS    TLSMode = iota
	StartTLS         // demand STARTTLS
	Implicit         // TLS from the first octet
)

// DefaultPort is MUPDATE's registered port.
const DefaultPort = "3905"

// ClientConfig says where and how to connect.
type ClientConfig struct {
	// Addresses are tried in order, HOST or HOST:PORT; every address that a host name has is tried.
	Addresses []string
	TLSMode   TLSMode
	TLS       *tls.Config // ServerName is filled in from the address
	// SASL chooses a mechanism among those offered; secured tells whether a password would travel
	// safely. Password is a simple one.
	SASL func(offered []string, secured bool) (sasl.Client, error)
	// Compress asks for DEFLATE after the login where the server offers it.
	Compress bool

	DialTimeout time.Duration // for each address; default 3 s
	Timeout     time.Duration // without any answer to a command; default 30 s
}

// ErrNoMechanism is returned when the server offers nothing that the client can use.
var ErrNoMechanism = errors.New("no usable SASL mechanism")

// Password returns a ClientConfig.SASL for a name and password: PLAIN, or in clear beyond this host and
// where PLAIN is not offered SCRAM.
func Password(user, password string) func([]string, bool) (sasl.Client, error) {
	return func(offered []string, secured bool) (sasl.Client, error) {
		for _, mech := range []string{auth.Plain, auth.ScramSHA256, auth.ScramSHA1} {
			switch {
			case !slices.ContainsFunc(offered, func(o string) bool { return strings.EqualFold(o, mech) }):
			case mech != auth.Plain:
				return auth.NewScramClient(mech, user, password, "")
			case secured:
				return sasl.NewPlainClient("", user, password), nil
			}
		}
		return nil, fmt.Errorf("%w among %q", ErrNoMechanism, offered)
	}
}

// ResponseError is a refusal by the server.
type ResponseError struct {
	Status string // NO, BAD or BYE
	Text   string
}

func (e *ResponseError) Error() string { return e.Status + " " + strconv.Quote(e.Text) }

// Greeting is what a server said about itself.
type Greeting struct {
	Mechanisms                        []string
	StartTLS, Compress, PartialUpdate bool
	Server, Implementation, Version   string
	Role                              string // "(master)" or the URL of the master
}

// Client is a connection that has logged in. One goroutine may use it at a time; Close may be called
// from any. After an error that is not a *ResponseError, or is one of BYE, it is of no more use.
type Client struct {
	cfg      ClientConfig
	base, nc net.Conn
	in       input
	out      output
	greeting Greeting
	secured  bool
	silence  time.Duration // how long a read waits
	counter  int

	// quiet, if set, is told of a silence and may have the read go on. It is asked below every layer: a
	// decompressor that has seen an error reads no more.
	quiet func() (goOn bool)
}

// received is what comes from the connection.
type received struct{ c *Client }

func (r received) Read(p []byte) (int, error) {
	for {
		n, err := r.c.nc.Read(p)
		var ne net.Error
		if n > 0 || r.c.quiet == nil || !errors.As(err, &ne) || !ne.Timeout() || !r.c.quiet() {
			return n, err
		}
	}
}

// Dial connects to the first address that answers and logs in. A server that says BYE in the place
// of a greeting does not answer; one that refuses the login ends the search.
func Dial(ctx context.Context, cfg ClientConfig) (*Client, error) {
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = 3 * time.Second
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	errs := []error{errors.New("no mupdate server could be reached")}
	for _, address := range cfg.Addresses {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			host, port = strings.Trim(address, "[]"), DefaultPort
		}
		ips, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			errs = append(errs, err)
		}
		for _, ip := range ips {
			c, err := dialOne(ctx, cfg, host, net.JoinHostPort(ip, port))
			if err == nil {
				if err = c.login(ctx); err == nil {
					err = c.compress(ctx)
				}
				if err == nil {
					return c, nil
				}
				c.Close()
				if errors.As(err, new(*ResponseError)) || errors.Is(err, ErrNoMechanism) {
					return nil, fmt.Errorf("logging in at %s: %w", address, err)
				}
			}
			errs = append(errs, fmt.Errorf("%s: %w", net.JoinHostPort(ip, port), err))
			if ctx.Err() != nil {
				return nil, errors.Join(errs...)
			}
		}
	}
	return nil, errors.Join(errs...)
}

// dialOne connects and reads the greeting, in DialTimeout.
func dialOne(ctx context.Context, cfg ClientConfig, host, address string) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if cfg.TLS == nil {
		cfg.TLS = &tls.Config{}
	}
	if cfg.TLS.ServerName == "" {
		cfg.TLS = cfg.TLS.Clone()
		cfg.TLS.ServerName = host
	}
	c := &Client{cfg: cfg, base: nc, nc: nc, silence: cfg.Timeout}
	c.in = input{r: received{c}, p: parser{literal: 2 * maxLiteral}}
	c.out.w = nc
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		c.secured = a.IP.IsLoopback()
	}
	done := c.bounded(ctx)
	defer done()
	if cfg.TLSMode == Implicit {
		err = c.handshake(ctx)
	}
	if err == nil {
		err = c.readGreeting(ctx)
	}
	if err == nil && cfg.TLSMode == StartTLS {
		err = c.startTLS(ctx)
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("greeting: %w", err)
	}
	return c, nil
}

// Greeting returns what the server said last, which is after STARTTLS if that was used.
func (c *Client) Greeting() Greeting { return c.greeting }

// Close drops the connection without LOGOUT.
func (c *Client) Close() error { return c.nc.Close() }

// bounded makes the end of ctx, and a silence of Timeout, end what the connection is doing. Each
// read renews the latter.
func (c *Client) bounded(ctx context.Context) (done func()) {
	c.base.SetDeadline(time.Now().Add(c.silence))
	stop := context.AfterFunc(ctx, func() { c.base.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// read returns the next line of the server, answering what it asks for.
func (c *Client) read(ctx context.Context) (frame, error) {
	for {
		f, ok, goAheads, err := c.in.next()
		if err != nil {
			return f, fmt.Errorf("malformed answer: %w", err)
		}
		for range goAheads {
			// RFC 3656 section 2.2: a server should not, but may.
			c.out.line(goAheadLine)
		}
		if ok {
			return f, nil
		}
		if err := c.flushAndFill(ctx); err != nil {
			return f, err
		}
	}
}

// flushRenewed writes what is gathered, and gives the peer Timeout again.
func (c *Client) flushRenewed(ctx context.Context) error {
	c.base.SetDeadline(time.Now().Add(c.silence))
	if ctx.Err() != nil { // its deadline may have come before ours
		return ctx.Err()
	}
	return c.out.flush()
}

func (c *Client) flushAndFill(ctx context.Context) error {
	err := c.flushRenewed(ctx)
	if err == nil {
		err = c.in.fill()
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// readGreeting reads up to the line that ends a greeting and ignores what it does not know (RFC 3656
// section 3.8).
func (c *Client) readGreeting(ctx context.Context) error {
	c.greeting = Greeting{}
	g := &c.greeting
	for {
		f, err := c.read(ctx)
		if err != nil {
			return err
		}
		var texts []string
		for _, t := range f.args {
			texts = append(texts, t.text)
		}
		switch {
		case f.is("AUTH"):
			g.Mechanisms = texts
		case f.is("STARTTLS"):
			g.StartTLS = true
		case f.is("COMPRESS"):
			g.Compress = slices.Contains(texts, "DEFLATE")
		case f.is("PARTIAL-UPDATE"):
			g.PartialUpdate = true
		case f.is("BYE"):
			return &ResponseError{"BYE", strings.Join(texts, " ")}
		case f.is("OK"):
			texts = append(texts, make([]string, 5)...)
			g.Server, g.Implementation, g.Version, g.Role = texts[1], texts[2], texts[3], texts[4]
			return nil
		}
	}
}

func (c *Client) startTLS(ctx context.Context) error {
	c.out.line("S01 STARTTLS")
	if err := c.complete(ctx); err != nil {
		return err
	}
	c.in.take()
	if err := c.handshake(ctx); err != nil {
		return err
	}
	return c.readGreeting(ctx)
}

func (c *Client) handshake(ctx context.Context) error {
	tc := tls.Client(c.base, c.cfg.TLS)
	if err := tc.HandshakeContext(ctx); err != nil {
		return err
	}
	c.nc, c.out.w, c.secured = tc, tc, true
	return nil
}

// complete reads the completion of a command that has no other answer.
func (c *Client) complete(ctx context.Context) error {
	f, err := c.read(ctx)
	if err != nil {
		return err
	}
	return completion(&f)
}

// completion turns OK into nil and a refusal into an error. Cyrus leaves some texts unquoted.
func completion(f *frame) error {
	var words []string
	for _, t := range f.args {
		words = append(words, t.text)
	}
	text := strings.Join(words, " ")
	switch status := strings.ToUpper(f.word); status {
	case "OK":
		return nil
	case "NO", "BAD", "BYE":
		return &ResponseError{status, text}
	}
	return fmt.Errorf("unexpected answer %q", f.tag+" "+f.word)
}

func (c *Client) login(ctx context.Context) error {
	defer c.bounded(ctx)()
	if c.cfg.SASL == nil {
		return nil
	}
	client, err := c.cfg.SASL(c.greeting.Mechanisms, c.secured)
	if err != nil {
		return err
	}
	mech, response, err := client.Start()
	if err != nil {
		return fmt.Errorf("%s: %w", mech, err)
	}
	c.out.buf = append(c.out.buf, `A01 AUTHENTICATE "`+mech+`"`...)
	if response != nil {
		c.out.buf = append(c.out.buf, ` "`+base64.StdEncoding.EncodeToString(response)+`"`...)
	}
	c.out.line("")
	for {
		line, err := c.readLine(ctx)
		if err != nil {
			return err
		}
		// A challenge is bare base64, so a line with a space in it is the end.
		if _, rest, over := strings.Cut(line, " "); over {
			word, text, _ := strings.Cut(rest, " ")
			if word = strings.ToUpper(word); word != "OK" {
				return &ResponseError{word, strings.Trim(text, `"`)}
			}
			return nil
		}
		challenge, err := base64.StdEncoding.DecodeString(line)
		if err == nil {
			response, err = client.Next(challenge)
		}
		if err != nil {
			c.out.line("*")
			c.out.flush()
			return fmt.Errorf("%s: %w", mech, err)
		}
		c.out.line(base64.StdEncoding.EncodeToString(response))
	}
}

// compress begins DEFLATE, if it is wanted and offered.
func (c *Client) compress(ctx context.Context) error {
	if !c.cfg.Compress || !c.greeting.Compress {
		return nil
	}
	defer c.bounded(ctx)()
	c.out.line(`Z01 COMPRESS "DEFLATE"`)
	if err := c.complete(ctx); err != nil {
		return fmt.Errorf("compressing: %w", err)
	}
	deflateLayer(&c.in, &c.out)
	return nil
}

func (c *Client) readLine(ctx context.Context) (string, error) {
	for {
		line, ok, err := c.in.line(auth.MaxEncoded)
		if ok || err != nil {
			return string(line), err
		}
		if err := c.flushAndFill(ctx); err != nil {
			return "", err
		}
	}
}
