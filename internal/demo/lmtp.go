package demo

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"murder/internal/mbox"
)

// delivery is one LMTP session. Only administrators may deliver, as on a Cyrus backend.
type delivery struct {
	b     *Backend
	known bool // signed on
	from  string
	rcpts []recipient
}

type recipient struct {
	addr string
	name mbox.Name
}

var (
	_ smtp.LMTPSession = (*delivery)(nil)
	_ smtp.AuthSession = (*delivery)(nil)
)

func (d *delivery) AuthMechanisms() []string { return []string{sasl.Plain} }

func (d *delivery) Auth(mech string) (sasl.Server, error) {
	if mech != sasl.Plain {
		return nil, smtp.ErrAuthUnknownMechanism
	}
	return sasl.NewPlainServer(func(_, name, password string) error {
		if !d.b.admin(name, password) {
			return smtp.ErrAuthFailed
		}
		d.known = true
		return nil
	}), nil
}

func (d *delivery) Mail(from string, _ *smtp.MailOptions) error {
	if !d.known {
		return &smtp.SMTPError{Code: 430, EnhancedCode: smtp.NoEnhancedCode, Message: "Authentication required"}
	}
	d.from, d.rcpts = from, nil
	return nil
}

// Rcpt finds the mailbox: the local part up to the first "+" is the user; a folder named by the rest
// is used if it exists.
func (d *delivery) Rcpt(to string, _ *smtp.RcptOptions) error {
	local, _, _ := strings.Cut(to, "@")
	login, detail, _ := strings.Cut(local, "+")
	user, err := d.b.cfg.Namespace.Canonical(login)
	if err != nil {
		return unknown(to)
	}
	inbox := d.b.cfg.Namespace.Inbox(user)
	if !d.b.has(inbox) {
		return unknown(to)
	}
	name := inbox
	if detail != "" {
		if folder := inbox + "." + mbox.Name(strings.ReplaceAll(detail, "/", ".")); d.b.has(folder) {
			name = folder
		}
	}
	d.rcpts = append(d.rcpts, recipient{to, name})
	return nil
}

func unknown(to string) error {
	return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "User unknown: " + to}
}

func (d *delivery) LMTPData(r io.Reader, status smtp.StatusCollector) error {
	msg, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	msg = append(fmt.Appendf(nil, "Return-Path: <%s>\r\n", d.from), msg...)
	for _, rc := range d.rcpts {
		_, err := d.b.store.Append(string(rc.name), literal{bytes.NewReader(msg)}, &imap.AppendOptions{Time: time.Now()})
		if err != nil {
			err = &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: err.Error()}
		}
		status.SetStatus(rc.addr, err)
	}
	return nil
}

// Data is what plain SMTP would call; the server speaks LMTP only.
func (d *delivery) Data(io.Reader) error {
	return &smtp.SMTPError{Code: 503, EnhancedCode: smtp.EnhancedCode{5, 5, 1}, Message: "LMTP only"}
}

func (d *delivery) Reset()        { d.from, d.rcpts = "", nil }
func (d *delivery) Logout() error { return nil }

// literal is a message in memory as the store reads it.
type literal struct{ *bytes.Reader }

func (l literal) Size() int64 { return l.Reader.Size() }
