package mupdate

import (
	"io"

	"murder/internal/imapwire"
	"murder/internal/mbox"
)

// Output is gathered and written at once: small writes one by one would meet delayed
// acknowledgements, and each costs a system call.
const (
	flushAt   = 32 << 10
	keepAtEnd = 4 << 10 // of the buffer, while the connection is idle
)

// output gathers lines. Its user flushes when over flushAt and before waiting for anything.
type output struct {
	w   io.Writer
	buf []byte
}

func (o *output) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	_, err := o.w.Write(o.buf)
	if o.buf = o.buf[:0]; cap(o.buf) > 2*flushAt {
		o.buf = nil
	}
	return err
}

// quiet gives a large buffer back.
func (o *output) quiet() {
	if cap(o.buf) > keepAtEnd {
		o.buf = nil
	}
}

func (o *output) line(s string) { o.buf = append(append(o.buf, s...), '\r', '\n') }

// status writes "tag OK "text"". Cyrus clients demand the text, as a string.
func (o *output) status(tag, word, text string) {
	o.buf = append(o.buf, tag...)
	o.buf = append(o.buf, ' ')
	o.buf = append(o.buf, word...)
	o.buf = append(o.buf, ' ', '"')
	o.buf = appendText(o.buf, text)
	o.buf = append(o.buf, '"', '\r', '\n')
}

// appendText makes a text for people fit between quotes: a literal would be right too, but some Cyrus
// releases cannot read one.
func appendText(dst []byte, text string) []byte {
	for _, c := range []byte(text[:min(len(text), imapwire.MaxQuoted)]) {
		switch {
		case c == '"' || c == '\\':
			c = '\''
		case c < ' ' || c > '~':
			c = '?'
		}
		dst = append(dst, c)
	}
	return dst
}

// maxQuoted is the longest value of a row that goes between quotes. Cyrus: every release reads quoted strings of
// any length, but 3.4.8, 3.6.5 and 3.8.3 no {n+} (seen with that of 3.8.3, mupdate-client.c and imapparse.c): such a
// backend would not start over one mailbox that is shared with many. Octets that need a literal are not among those
// of Cyrus's names. A whole row must fit into maxLine.
const maxQuoted = 4096

// row writes a record as MAILBOX, RESERVE or, for an absent name, DELETE (RFC 3656 section 3).
// Cyrus: RESERVE carries two strings and MAILBOX three, or the client gives up.
func (o *output) row(tag string, e *mbox.Entry) {
	o.buf = append(o.buf, tag...)
	switch e.State {
	case mbox.Active:
		o.buf = append(o.buf, " MAILBOX "...)
	case mbox.Reserved:
		o.buf = append(o.buf, " RESERVE "...)
	default:
		o.buf = append(o.buf, " DELETE "...)
	}
	o.buf = imapwire.AppendStringUpTo(o.buf, e.Name, maxQuoted)
	if e.State != mbox.Absent {
		o.buf = append(o.buf, ' ')
		o.buf = imapwire.AppendStringUpTo(o.buf, e.Location, maxQuoted)
	}
	if e.State == mbox.Active {
		o.buf = append(o.buf, ' ')
		o.buf = imapwire.AppendStringUpTo(o.buf, e.ACL, maxQuoted)
	}
	o.buf = append(o.buf, '\r', '\n')
}
