package lmtp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// reply is one answer: a code and the text of its lines, each with its enhanced code in front
// (RFC 2034).
type reply struct {
	code  int
	lines []string
}

// answer makes a reply of one line.
func answer(code int, text string) reply { return reply{code, []string{text}} }

// The replies to the client. The codes are part of the contract with MTAs.
var (
	replyOK            = answer(250, "2.0.0 Ok")
	replySender        = answer(250, "2.1.0 Ok")
	replyRecipient     = answer(250, "2.1.5 Ok")
	replyData          = answer(354, "End data with <CR><LF>.<CR><LF>")
	replyBye           = answer(221, "2.0.0 Bye")
	replyVrfy          = answer(252, "2.3.3 Try sending mail")
	replyStartTLS      = answer(220, "2.0.0 Begin TLS negotiation now")
	replyNoTLS         = answer(454, "4.7.0 TLS not available")
	replyClosing       = answer(421, "4.3.2 Shutting down, try again later")
	replyFull          = answer(421, "4.3.2 Too many connections, try again later")
	replyIdle          = answer(421, "4.4.2 Idle for too long")
	replyTooManyErrors = answer(421, "4.7.0 Too many errors")
	replyPanic         = answer(421, "4.3.0 Internal error")

	replyUnknownCommand = answer(500, "5.5.2 Command unrecognized")
	replyLongLine       = answer(500, "5.5.2 Line too long")
	replyNotSMTP        = answer(500, "5.5.1 This is LMTP, say LHLO")
	replyNoChunking     = answer(503, "5.5.1 CHUNKING is not offered")
	replySyntax         = answer(501, "5.5.4 Syntax error in parameters")
	replySenderPath     = answer(501, "5.1.7 Malformed sender address")
	replyRecipientPath  = answer(501, "5.1.3 Malformed recipient address")
	replyParameter      = answer(555, "5.5.4 Parameter not supported")
	replyNoUTF8         = answer(555, "5.6.7 SMTPUTF8 not supported")
	replySequence       = answer(503, "5.5.1 Bad sequence of commands")
	replyNoRecipients   = answer(503, "5.5.1 No valid recipients")

	replyUntrusted     = answer(530, "5.7.0 Authentication required")
	replyUntrustedSoft = answer(451, "4.7.0 Authentication required")
	replyAuthOK        = answer(235, "2.7.0 Authenticated")
	replyAuthFailed    = answer(535, "5.7.8 Authentication failed")
	replyAuthNeedsTLS  = answer(538, "5.7.11 Encryption required for this mechanism")
	replyAuthUnknown   = answer(504, "5.5.4 Unrecognized authentication mechanism")
	replyAuthCancelled = answer(501, "5.7.0 Authentication cancelled")
	replyAuthSyntax    = answer(501, "5.5.2 Cannot decode response")
	replyAuthLater     = answer(454, "4.7.0 Temporary authentication failure")

	replyUnknownUser  = answer(550, "5.1.1 User unknown")
	replyUnknownDefer = answer(450, "4.1.1 User unknown for now")
	replyNoPost       = answer(550, "5.7.1 No right to post to this mailbox")
	replyMoving       = answer(451, "4.2.1 Mailbox is being moved or created, try again later")
	replyUnsure       = answer(451, "4.4.3 Mailbox directory unavailable, try again later")
	replyNotSynced    = answer(451, "4.3.2 Mailbox directory not loaded yet, try again later")
	replyLoop         = answer(451, "4.4.6 Mailbox is recorded on this frontend itself")
	replyTooMany      = answer(452, "4.5.3 Too many recipients")

	replyTooBig       = answer(552, "5.3.4 Message too big")
	replyBadContent   = answer(554, "5.6.0 Message contains NUL octets")
	replyLongLines    = answer(554, "5.6.0 Message contains a line that is too long")
	replyHops         = answer(554, "5.4.6 Too many Received fields, a loop")
	replySpoolFull    = answer(452, "4.3.1 No space for messages, try again later")
	replySpoolError   = answer(451, "4.3.0 Cannot store the message, try again later")
	replyInternal     = answer(451, "4.3.0 Internal error, try again later")
	replyUnreachable  = answer(451, "4.4.1 Mail server unreachable, try again later")
	replyLost         = answer(451, "4.4.2 Connection to mail server lost, try again later")
	replyBackendBye   = answer(451, "4.3.2 Mail server is closing, try again later")
	replyBackendAuth  = answer(451, "4.7.0 Mail server refuses this frontend, try again later")
	replyBackendTLS   = answer(451, "4.7.5 Cannot secure the connection to the mail server, try again later")
	replyBackendState = answer(451, "4.5.0 Mail server disagrees about the protocol, try again later")
	replyNotAtBackend = answer(451, "4.2.0 Mailbox is not where the directory says, try again later")
)

// replyOf is the answer to RCPT, and to the data for a recipient who has been lost meanwhile.
func replyOf(s Status) reply {
	return [...]reply{replyRecipient, replyUnknownUser, replyNoPost, replyMoving, replyUnsure, replyNotSynced, replyLoop}[s]
}

func (r reply) is2xx() bool { return r.code/100 == 2 }

// appendTo renders the reply.
func (r reply) appendTo(dst []byte) []byte {
	for i, line := range r.lines {
		sep := byte('-')
		if i == len(r.lines)-1 {
			sep = ' '
		}
		dst = strconv.AppendInt(dst, int64(r.code), 10)
		dst = append(dst, sep)
		dst = append(dst, line...)
		dst = append(dst, '\r', '\n')
	}
	return dst
}

func (r reply) String() string { return fmt.Sprintf("%d %s", r.code, strings.Join(r.lines, " / ")) }

// enhanced returns the enhanced code, "" if there is none. Backends put it on the last line at least.
func (r reply) enhanced() string {
	for i := len(r.lines) - 1; i >= 0; i-- {
		if code := enhancedCode(r.lines[i]); code != "" {
			return code
		}
	}
	return ""
}

// enhancedCode returns the code at the start of a line (RFC 3463 section 2).
func enhancedCode(line string) string {
	code, _, _ := strings.Cut(line, " ")
	parts := strings.Split(code, ".")
	if len(parts) != 3 || parts[0] != "2" && parts[0] != "4" && parts[0] != "5" {
		return ""
	}
	for _, p := range parts[1:] {
		if n, err := strconv.Atoi(p); err != nil || n < 0 || len(p) > 3 || p[0] == '+' || p[0] == '-' {
			return ""
		}
	}
	return code
}

// passedOn is a backend's reply as the client gets it: the same code and text, with an enhanced code
// of the same class.
func (r reply) passedOn() reply {
	class := strconv.Itoa(r.code / 100)
	code := r.enhanced()
	if code != "" && code[:1] == class {
		return r
	}
	out := reply{code: r.code, lines: make([]string, len(r.lines))}
	for i, line := range r.lines {
		if c := enhancedCode(line); c != "" {
			line = strings.TrimPrefix(line[len(c):], " ")
		}
		out.lines[i] = class + ".0.0 " + line
	}
	return out
}

const (
	replyLines  = 10  // of a backend's reply are kept
	replyOctets = 500 // of each line's text, so that 512 hold it with code and line end
	replyMost   = 200 // lines that are read at all
)

var errReply = errors.New("malformed reply")

// readReply reads one reply of a backend. What is beyond the limits is read and dropped.
func readReply(r *bufio.Reader) (reply, error) {
	var rep reply
	for n := 0; ; n++ {
		line, err := readReplyLine(r)
		if err != nil {
			return reply{}, err
		}
		code, more, ok := splitReplyLine(line)
		if !ok || n > 0 && code != rep.code || n == replyMost {
			return reply{}, fmt.Errorf("%w: %.60q", errReply, line)
		}
		rep.code = code
		text := ""
		if len(line) > 4 {
			text = clean(line[4:])
		}
		switch {
		case len(rep.lines) < replyLines:
			rep.lines = append(rep.lines, text)
		case !more:
			rep.lines[replyLines-1] = text // the last line carries the enhanced code
		}
		if !more {
			return rep, nil
		}
	}
}

// readReplyLine returns a line without its end, cut to what is kept of it.
func readReplyLine(r *bufio.Reader) (string, error) {
	var kept []byte
	for {
		part, err := r.ReadSlice('\n')
		if err == nil && kept == nil && len(part) <= 4+replyOctets {
			return string(bytes.TrimRight(part, "\r\n")), nil
		}
		if room := 4 + replyOctets - len(kept); room > 0 {
			kept = append(kept, part[:min(room, len(part))]...)
		}
		if err == nil {
			return strings.TrimRight(string(kept), "\r\n"), nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
	}
}

func splitReplyLine(line string) (code int, more, ok bool) {
	if len(line) < 3 {
		return 0, false, false
	}
	for i := range 3 {
		if line[i] < '0' || line[i] > '9' {
			return 0, false, false
		}
		code = code*10 + int(line[i]-'0')
	}
	if len(line) > 3 && line[3] != ' ' && line[3] != '-' {
		return 0, false, false
	}
	return code, len(line) > 3 && line[3] == '-', code >= 200 && code < 600
}

// clean replaces what could end a line or confuse a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
