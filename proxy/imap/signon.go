package imap

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-sasl"

	"murder/internal/backend"
	"murder/internal/mbox"
)

// signOn is the dialogue from greeting to login on one new connection. Where the server has been heard
// lately, it is told who we are before it greets, which saves a round trip.
//
// Cyrus forgets what is pipelined behind AUTHENTICATE (3.6.1): nothing may be.
type signOn struct {
	texts  *capTexts
	server mbox.Server
	nc     *backend.Conn
	in     *reader
	caps   capSet
	final  bool   // the login may have been judged, and must not be tried again
	hello  string // what is to be said ahead of the login: who the client is; "" for nothing, or once it has been said
	prefix string
	seq    int
	unhook func() bool // of a connection opened by aside
}

// newSignOn begins on a new connection; until unhook is called, which may be done once, it ends with ctx.
func newSignOn(ctx context.Context, server mbox.Server, nc *backend.Conn, texts *capTexts) (so *signOn, unhook func() bool) {
	deadline, _ := ctx.Deadline()
	nc.SetDeadline(deadline)
	unhook = context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	so = &signOn{texts: texts, server: server, nc: nc, prefix: "." + rand.Text()[:6] + "-"}
	so.read()
	return so, unhook
}

// read begins to read what the server says. It says who it is, what it thinks of ID and what of the login in packets
// of their own.
func (so *signOn) read() {
	so.in = newReader(so.nc)
	so.in.wait = func() { quickAck(so.in, so.nc) }
}

// login is how a connection comes to be somebody's.
type login interface {
	// begin sends it. The capabilities before login are known then.
	begin(*signOn) (*exchangeSASL, error)
	// once reports whether it must not be tried again where it may have been judged: it may be wrong.
	once() bool
	// end judges the server's word about it. With an error the connection is of no use.
	end(so *signOn, st status, code, text string) error
}

// run goes from the greeting to the end of a login, and returns what the server offered before. What it offered last
// time may be known.
func (so *signOn) run(ctx context.Context, l login, known capSet) (before capSet, err error) {
	var x *exchangeSASL
	if known.has("SASL-IR") && !so.nc.NeedStartTLS() {
		so.caps = known
		if x, err = l.begin(so); err != nil {
			return nil, err
		}
	}
	if err := so.greet(ctx, known); err != nil {
		return nil, err
	}
	if x == nil {
		if x, err = l.begin(so); err != nil {
			return nil, err
		}
	}
	before, so.final = so.caps, l.once()
	st, code, text, err := so.conclude(x)
	switch {
	case errors.Is(err, errCredentials): // the server asks for what it did not ask before
		so.final = false
	case err == nil && st != statusOK && so.final && known != nil && !so.takes(x, st):
		so.final = false
		err = fmt.Errorf("%w: it takes no such login any more: %.200s", errProtocol, text)
	}
	if err != nil {
		return nil, err
	}
	return before, l.end(so, st, code, text)
}

// takes asks the server, which has refused a login, whether it takes such ones: its greeting need not have said so, and
// holds no more under TLS. Then it has judged it.
func (so *signOn) takes(x *exchangeSASL, st status) bool {
	so.capsFrom("") // if it does not say, it is taken to be as it was
	if x.client == nil {
		return !so.caps.has("LOGINDISABLED")
	}
	return so.caps.has("AUTH="+x.mech) && (!x.early || st == statusNo || so.caps.has("SASL-IR"))
}

// greet reads the greeting and secures the connection as the policy says.
func (so *signOn) greet(ctx context.Context, known capSet) error {
	greeting, err := so.in.appendLine(nil, maxTagged)
	if err != nil {
		return fmt.Errorf("%w: reading the greeting: %w", errProtocol, err)
	}
	if so.in.raw = rawConn(so.nc.Conn); so.in.raw != nil { // the breaker has seen the first octet
		so.in.first = nil
	}
	// PREAUTH would mean that we act as somebody we did not choose.
	st, code, _ := condition(greeting)
	if !strings.HasPrefix(string(greeting), "* ") || st != statusOK {
		return fmt.Errorf("%w: greeting %.80q", errProtocol, greeting)
	}
	if codeName(code) == "CAPABILITY" || known == nil {
		if err := so.capsFrom(code); err != nil {
			return err
		}
	}
	if !so.nc.NeedStartTLS() {
		return nil
	}
	if known == nil && !so.caps.has("STARTTLS") {
		return fmt.Errorf("%w: STARTTLS is not offered", backend.ErrTLS)
	}
	if _, err := so.ask("STARTTLS"); err != nil {
		return err
	}
	so.in.release()
	if err := so.nc.StartTLS(ctx); err != nil {
		return err
	}
	so.read()
	if known != nil {
		so.caps = known
		return nil
	}
	return so.capsFrom("")
}

// capsFrom takes the capabilities of a response code, or asks.
func (so *signOn) capsFrom(code string) error {
	if codeName(code) == "CAPABILITY" {
		so.caps = so.texts.parse(code[len("CAPABILITY"):])
		return nil
	}
	untagged, err := so.ask("CAPABILITY")
	if err != nil {
		return err
	}
	for _, line := range untagged {
		if rest, ok := strings.CutPrefix(strings.ToUpper(line), "* CAPABILITY "); ok {
			so.caps = so.texts.parse(rest)
		}
	}
	return nil
}

// exchangeSASL is a SASL exchange that has been begun.
type exchangeSASL struct {
	client sasl.Client // nil for LOGIN, which is none
	mech   string
	early  bool // the initial response went with the command
	tag    string
	ir     []byte // not sent yet
}

func (so *signOn) beginSASL(mech string, client sasl.Client) (*exchangeSASL, error) {
	_, ir, err := client.Start()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCredentials, err)
	}
	x := &exchangeSASL{client: client, mech: mech, ir: ir}
	cmd := "AUTHENTICATE " + mech
	if ir != nil && so.caps.has("SASL-IR") {
		cmd += " " + encodeIR(ir)
		x.ir, x.early = nil, true
	}
	x.tag, err = so.sendLogin(cmd)
	return x, err
}

// sendLogin sends the command that logs in, and ahead of it, in the same packet, who the client is: ID may be said in
// any state (RFC 2971 section 3.1), and so the server also knows whose login it is that fails.
func (so *signOn) sendLogin(cmd string) (tag string, err error) {
	hello := so.hello
	if hello == "" || !so.caps.has("ID") {
		return so.send(cmd)
	}
	so.hello = ""
	return so.send(hello, cmd)
}

// conclude runs an exchange to its end and returns the server's word about it.
func (so *signOn) conclude(x *exchangeSASL) (st status, code, text string, err error) {
	for {
		line, err := so.in.takeResponse(maxTaken)
		if err != nil {
			return 0, "", "", fmt.Errorf("%w: %w", errProtocol, err)
		}
		if rest, ok := strings.CutPrefix(string(line), "+"); ok && x.client != nil {
			answer, err := so.respond(x.client.Next, strings.TrimSpace(rest), &x.ir)
			if err != nil {
				return 0, "", "", err
			}
			if _, err := io.WriteString(so.nc, answer+"\r\n"); err != nil {
				return 0, "", "", fmt.Errorf("%w: %w", errProtocol, err)
			}
			continue
		}
		if strings.HasPrefix(string(line), x.tag+" ") {
			st, code, text = condition(line)
			return st, code, text, nil
		}
	}
}

func (so *signOn) respond(next func([]byte) ([]byte, error), challenge string, ir *[]byte) (string, error) {
	if *ir != nil {
		answer := base64.StdEncoding.EncodeToString(*ir)
		*ir = nil
		return answer, nil
	}
	raw, err := base64.StdEncoding.DecodeString(challenge)
	if err != nil {
		return "", fmt.Errorf("%w: challenge is not base64", errProtocol)
	}
	answer, err := next(raw)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errCredentials, err)
	}
	return base64.StdEncoding.EncodeToString(answer), nil
}

func encodeIR(ir []byte) string {
	if len(ir) == 0 {
		return "="
	}
	return base64.StdEncoding.EncodeToString(ir)
}

// send sends commands at once and returns the tag of the last.
func (so *signOn) send(cmds ...string) (tag string, err error) {
	var text strings.Builder
	for _, cmd := range cmds {
		so.seq++
		tag = so.prefix + strconv.Itoa(so.seq)
		text.WriteString(tag + " " + cmd + "\r\n")
	}
	if _, err := io.WriteString(so.nc, text.String()); err != nil {
		return "", fmt.Errorf("%w: %w", errProtocol, err)
	}
	return tag, nil
}

// ask sends a command and returns the untagged lines of its answer, literals and all, which must be OK.
func (so *signOn) ask(cmd string) (untagged []string, err error) {
	tag, err := so.send(cmd)
	if err != nil {
		return nil, err
	}
	for left := maxTaken; len(untagged) < 1000; {
		line, err := so.in.takeResponse(left)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errProtocol, err)
		}
		if left -= len(line); !strings.HasPrefix(string(line), tag+" ") {
			untagged = append(untagged, string(bytes.TrimRight(line, "\r\n")))
			continue
		}
		if st, code, text := condition(line); st != statusOK {
			return untagged, &refusedError{st, code, text}
		}
		return untagged, nil
	}
	return nil, fmt.Errorf("%w: endless answer", errProtocol)
}

// refusedError is a NO or BAD to a command of ours. While signing on it means that the server cannot be used.
type refusedError struct {
	status     status
	code, text string
}

func (e *refusedError) Error() string { return fmt.Sprintf("refused: %.200s", e.text) }

func (e *refusedError) Unwrap() error { return errProtocol }

// enable asks for extensions; lacking one of them here would corrupt what the client believes.
func (so *signOn) enable(names []string) error {
	if len(names) == 0 {
		return nil
	}
	untagged, err := so.ask("ENABLE " + strings.Join(names, " "))
	if err != nil {
		return err
	}
	got := make(capSet)
	for _, line := range untagged {
		if rest, ok := strings.CutPrefix(strings.ToUpper(line), "* ENABLED"); ok {
			got = parseCaps(rest)
		}
	}
	return enabledAll(names, got)
}

func enabledAll(names []string, got capSet) error {
	for _, name := range names {
		// Many commands turn CONDSTORE on by themselves, and then a server need not report it.
		if !got.has(name) && name != "CONDSTORE" {
			return errEnable
		}
	}
	return nil
}

// quote writes s as a quoted string; s holds nothing that needs more than escapes.
func quote(s string) string {
	if !strings.ContainsAny(s, `"\`) {
		return `"` + s + `"`
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
