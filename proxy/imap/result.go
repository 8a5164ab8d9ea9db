package imap

import (
	"context"
	"errors"
	"fmt"

	"murder/internal/backend"
	"murder/internal/mbox"
)

// result is the end of a command as the client sees it. It is an error so that a step deep inside
// can end the command; no more than that.
type result struct {
	status string // OK, NO, BAD
	code   string // RFC 5530 and others, without brackets
	text   string
}

func (r *result) Error() string {
	if r.code == "" {
		return r.status + " " + r.text
	}
	return r.status + " [" + r.code + "] " + r.text
}

func ok(text string) *result        { return &result{"OK", "", text} }
func okCode(code, t string) *result { return &result{"OK", code, t} }
func no(code, text string) *result  { return &result{"NO", code, text} }
func bad(text string) *result       { return &result{"BAD", "", text} }

// The answers that several commands share. Without the right to look a mailbox up, a mailbox that
// is there gets the same answer as one that is not.
var (
	errNoMailbox    = no("NONEXISTENT", "Mailbox does not exist")
	errTryCreate    = no("TRYCREATE", "Mailbox does not exist")
	errPermission   = no("NOPERM", "Permission denied")
	errTooBig       = no("TOOBIG", "Message too large")
	errMapUnknown   = no("UNAVAILABLE", "The mailbox list cannot be confirmed now, try again later")
	errBackendDown  = no("UNAVAILABLE", "The server of this mailbox is not available, try again later")
	errMoving       = no("UNAVAILABLE", "The mailbox is being moved, try again later")
	errOutcome      = no("UNAVAILABLE", "The server of this mailbox was lost; the outcome is unknown")
	errTooMany      = no("LIMIT", "You have too many sessions, close one and try again")
	errBadName      = no("CANNOT", "Invalid mailbox name")
	errNotHere      = no("CANNOT", "Not available on this server")
	errNotSelected  = bad("No mailbox is selected")
	errNeedsLogin   = bad("Log in first")
	errAlreadyKnown = bad("Already logged in")
)

// answer turns what a command's function returned into a result.
func answer(err error) *result {
	var r *result
	switch {
	case errors.As(err, &r):
		return r
	case errors.Is(err, errSyntax):
		return bad(fmt.Sprintf("%v", err))
	case errors.Is(err, errLost):
		return errOutcome
	case errors.Is(err, backend.ErrDown), errors.Is(err, context.DeadlineExceeded):
		return errBackendDown
	case errors.Is(err, mbox.ErrBadName):
		return errBadName
	case errors.Is(err, mbox.ErrNotMailbox):
		return errNoMailbox
	case errors.Is(err, mbox.ErrUnavailable), errors.Is(err, mbox.ErrUnknownOutcome), errors.Is(err, context.Canceled):
		return errMapUnknown
	}
	return no("SERVERBUG", "Internal error")
}
