package lmtp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"murder/internal/backend"
	"murder/internal/mbox"
)

// client is a connection to a backend that has signed on.
type client struct {
	conn   *backend.Conn
	in     *bufio.Reader
	server mbox.Server
	capabilities
	uses   int  // transactions
	clean  bool // the last was carried through: nothing of it is left there
	reset  bool // the present one began with RSET
	born   time.Time
	expiry *time.Timer // while it is unused
}

// capabilities are what LHLO has shown.
type capabilities struct {
	pipelining, eightBit, ignoreQuota, startTLS, offersAuth, offersSize bool

	size  int64 // largest message, 0 if unknown
	mechs []string
}

// failure is an exchange with a backend that did not end well, and what the recipients whose outcome
// is open are told.
type failure struct {
	err   error
	reply reply
	// retry means that the message certainly has not been delivered and another connection may do
	// better.
	retry bool
	// stale means that the backend closed the connection while it was not used.
	stale bool
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// lost describes an error of the connection.
func lost(doing string, err error) *failure {
	return &failure{
		err:   fmt.Errorf("%s: %w", doing, err),
		reply: replyLost,
		retry: !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, errReply),
	}
}

// unexpected describes a reply that ends the exchange.
func unexpected(doing string, rep reply, toClient reply) *failure {
	if rep.code == 421 {
		toClient = replyBackendBye
	}
	return &failure{err: fmt.Errorf("%s: %s", doing, rep), reply: toClient}
}

// asFailure is an error of pool.get.
func asFailure(err error) *failure {
	if f, ok := err.(*failure); ok {
		return f
	}
	return &failure{err: err, reply: replyUnreachable}
}

// mail is the command that begins a transaction; size is 0 if it is not known.
func (c *client) mail(env *envelope, size int64) string {
	command := "MAIL FROM:<" + env.from + ">"
	if c.offersSize && size > 0 {
		command += " SIZE=" + strconv.FormatInt(size, 10)
	}
	if env.body != "" && c.eightBit {
		command += " BODY=" + env.body
	}
	if c.offersAuth {
		command += " AUTH=" + mailAuth(env.poster)
	}
	return command
}

// announced is the size to name before the message is there: what the client says, unless it exaggerates
// beyond what the backend takes.
func (c *client) announced(size int64) int64 {
	if c.size > 0 && size > c.size && size-c.size <= sizeSlack {
		return c.size
	}
	return size
}

// envelope is the commands up to the last RCPT. The first on a connection that has been used finds out whether the
// backend is still there. RSET comes first unless the last transaction was carried through for all its recipients.
//
// Cyrus: after a refused MAIL or a message that was too big the sender stays set, and MAIL would be one too many. What
// is said of the message to a single recipient looks like a word about him.
func (c *client) envelope(env *envelope, size int64, rcpts []*recipient) []string {
	commands := make([]string, 0, len(rcpts)+3) // with room for DATA
	if c.reset = c.uses > 0 && !c.clean; c.reset {
		commands = append(commands, "RSET")
	}
	c.clean = false
	commands = append(commands, c.mail(env, size))
	for _, rc := range rcpts {
		commands = append(commands, c.rcpt(rc))
	}
	return commands
}

func (c *client) rcpt(rc *recipient) string {
	command := "RCPT TO:<" + rc.route.Path + ">"
	if rc.ignoreQuota && c.ignoreQuota {
		command += " IGNOREQUOTA"
	}
	return command
}

// expired reports whether a connection should not be used again.
func (c *client) expired(cfg *Config) bool {
	return c.uses >= cfg.Limits.BackendUses || time.Since(c.born) >= cfg.Limits.BackendAge
}

// quit ends an unused connection without waiting for the answer.
func (c *client) quit() {
	c.conn.SetWriteDeadline(time.Now().Add(time.Second))
	c.conn.Write([]byte("QUIT\r\n"))
	c.conn.Close()
}

// dial opens a connection and signs on. Sign-on is a dialogue, one command at a time.
//
// Cyrus: answers to pipelined commands come in several segments, and the second waits for the
// acknowledgement of the first.
func dial(ctx context.Context, cfg *Config, server mbox.Server) (*client, error) {
	conn, err := cfg.Backends.Dial(ctx, server, backend.LMTP)
	if err != nil {
		f := &failure{err: err, reply: replyUnreachable}
		switch {
		case errors.Is(err, backend.ErrTLS):
			f.reply = replyBackendTLS
		case errors.Is(err, backend.ErrLoop):
			f.reply = replyLoop
		}
		return nil, f
	}
	c := &client{conn: conn, in: bufio.NewReaderSize(conn, 4096), server: server, born: time.Now()}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	conn.SetDeadline(time.Now().Add(cfg.Limits.SignOn))
	if err := c.signOn(ctx, cfg); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *client) signOn(ctx context.Context, cfg *Config) error {
	rep, err := readReply(c.in)
	if err != nil {
		return lost("waiting for the greeting", err)
	}
	if rep.code != 220 {
		return unexpected("greeting", rep, replyUnreachable)
	}
	if strings.HasSuffix(rep.lines[0], greeting) { // another one, maybe of several behind one address
		return &failure{err: fmt.Errorf("greeted by a frontend: %w", backend.ErrLoop), reply: replyLoop}
	}
	if err := c.hello(cfg.Hostname); err != nil {
		return err
	}
	if c.conn.NeedStartTLS() {
		if err := c.secure(ctx, cfg.Hostname); err != nil {
			return err
		}
	}
	if !c.offersAuth {
		return nil
	}
	mech, sasl, err := cfg.Backends.SASL(c.server, c.mechs, "", c.conn.Secured())
	if errors.Is(err, backend.ErrNoMechanism) {
		return nil // it may trust us anyway: MAIL will tell
	}
	if err != nil {
		return &failure{err: err, reply: replyBackendAuth}
	}
	_, initial, err := sasl.Start()
	if err != nil {
		return &failure{err: err, reply: replyBackendAuth}
	}
	command := "AUTH " + mech
	if initial != nil {
		command += " " + encodeInitial(initial)
	}
	for {
		rep, err := c.ask(command)
		switch {
		case err != nil:
			return lost("signing on", err)
		case rep.code == 235:
			return nil
		case rep.code != 334:
			f := unexpected("signing on with "+mech, rep, replyBackendAuth)
			if rep.code/100 == 5 {
				cfg.Backends.LoginFailed(c.server, backend.LMTP, f)
			}
			return f
		}
		challenge, err := base64.StdEncoding.DecodeString(rep.lines[0])
		if err != nil {
			return &failure{err: fmt.Errorf("signing on: %w", err), reply: replyBackendAuth}
		}
		response, err := sasl.Next(challenge)
		if err != nil {
			return &failure{err: fmt.Errorf("signing on: %w", err), reply: replyBackendAuth}
		}
		command = base64.StdEncoding.EncodeToString(response)
	}
}

func encodeInitial(response []byte) string {
	if len(response) == 0 {
		return "=" // RFC 4954 section 4
	}
	return base64.StdEncoding.EncodeToString(response)
}

// secure changes to TLS, which begins the session anew.
func (c *client) secure(ctx context.Context, hostname string) error {
	if !c.startTLS {
		return &failure{err: errors.New("backend does not offer STARTTLS"), reply: replyBackendTLS}
	}
	rep, err := c.ask("STARTTLS")
	if err != nil {
		return lost("starting TLS", err)
	}
	if rep.code != 220 {
		return unexpected("starting TLS", rep, replyBackendTLS)
	}
	if err := c.conn.StartTLS(ctx); err != nil {
		return &failure{err: err, reply: replyBackendTLS}
	}
	c.in.Reset(c.conn)
	return c.hello(hostname)
}

func (c *client) hello(hostname string) error {
	rep, err := c.ask("LHLO " + hostname)
	if err != nil {
		return lost("LHLO", err)
	}
	if rep.code != 250 {
		return unexpected("LHLO", rep, replyBackendState)
	}
	c.capabilities = parseCapabilities(rep.lines)
	return nil
}

// parseCapabilities reads the lines of LHLO's answer. The first names the server, and Cyrus's last
// is no capability either.
func parseCapabilities(lines []string) (caps capabilities) {
	for _, line := range lines {
		keyword, args, _ := strings.Cut(line, " ")
		switch strings.ToUpper(keyword) {
		case "PIPELINING":
			caps.pipelining = true
		case "8BITMIME":
			caps.eightBit = true
		case "IGNOREQUOTA":
			caps.ignoreQuota = true
		case "STARTTLS":
			caps.startTLS = true
		case "SIZE":
			caps.offersSize = true
			caps.size, _ = parseSize(args)
		case "AUTH":
			caps.offersAuth = true
			caps.mechs = strings.Fields(args)
		}
	}
	return caps
}

// ask sends one command and reads its reply, within the deadline set before.
func (c *client) ask(command string) (reply, error) {
	if _, err := c.conn.Write([]byte(command + "\r\n")); err != nil {
		return reply{}, err
	}
	return readReply(c.in)
}

// flight is how many commands go out before replies are read. The replies to that many fit into the
// socket's buffers, so neither side can block the other.
const flight = 100

// exchange sends commands and hands each reply to take, in order. With PIPELINING a flight of
// commands is one write. It returns the number of replies read.
func (c *client) exchange(commands []string, patience time.Duration, take func(i int, rep reply) error) (int, error) {
	step := 1
	if c.pipelining {
		step = flight
	}
	n := 0
	for n < len(commands) {
		batch := commands[n:min(n+step, len(commands))]
		err := c.send(batch, patience)
		if err == nil {
			n, err = c.replies(n, n+len(batch), patience, take)
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// send writes commands at once.
func (c *client) send(commands []string, patience time.Duration) error {
	c.conn.SetWriteDeadline(time.Now().Add(patience))
	_, err := c.conn.Write([]byte(strings.Join(commands, "\r\n") + "\r\n"))
	return err
}

// waits reports whether the next reply has not come, or not all of it: Cyrus writes 4 kB at a time, in which the line of a
// recipient need not end.
func (c *client) waits() bool {
	come, _ := c.in.Peek(c.in.Buffered())
	for line := range bytes.Lines(come) {
		if bytes.HasSuffix(line, []byte("\n")) && (len(line) < 4 || line[3] != '-') {
			return false
		}
	}
	return true
}

// replies hands the replies to the commands n to end-1 to take. It returns the number of the first
// command without a reply.
func (c *client) replies(n, end int, patience time.Duration, take func(i int, rep reply) error) (int, error) {
	for first := n; n < end; {
		if c.waits() {
			if n > first {
				c.conn.Acknowledge()
			}
			c.conn.SetReadDeadline(time.Now().Add(patience))
		}
		rep, err := readReply(c.in)
		if err != nil {
			return n, err
		}
		n++
		if err := take(n-1, rep); err != nil {
			return n, err
		}
	}
	return n, nil
}
