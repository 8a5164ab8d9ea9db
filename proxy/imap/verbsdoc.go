package imap

import (
	"fmt"
	"io"
	"strings"
)

// WriteVerbs writes docs/imap-verbs.md: the command table as operators and testers read it.
func WriteVerbs(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`# IMAP commands

What the IMAP frontend does with each command. This page is made from the table that the program works by;
"make docs" writes it.

- **When**: *always*, *before login*, *logged in*, or *selected*, that is with a mailbox open.
- **Where**: *here* (from the map and what the session knows), *selected mailbox* (at its backend; *relayed* commands
  pass through as they come, and others may follow before the answer), *mailbox* (at the backend of the mailbox that the
  command names), *home* (at the backend of the user's INBOX), *several* (at as many backends as it takes), or *refused*.
- **Again**: whether the command is sent a second time if a connection that had been unused for a while ends without any
  answer. Others are answered NO [UNAVAILABLE] then, because their outcome is unknown.
- **Map**: whether the map must show the change before the client is told OK, so that every frontend knows it.

Anything else is answered BAD. A backend that cannot be reached costs its own mailboxes only: NO [UNAVAILABLE].

| Command | When | Where | Again | Map | Remarks |
|---|---|---|---|---|---|
`)
	for _, v := range table() {
		note := v.note
		if v.admin {
			note = strings.TrimSpace("Administrators only. " + note)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", v.name, v.phases, v.route, mark(v.idempotent), mark(v.barrier), note)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func mark(yes bool) string {
	if yes {
		return "yes"
	}
	return ""
}

func (p phase) String() string {
	switch p {
	case anyPhase:
		return "always"
	case fresh:
		return "before login"
	case selected:
		return "selected"
	}
	return "logged in"
}

func (r route) String() string {
	return [...]string{"here", "selected mailbox, relayed", "selected mailbox", "mailbox", "home", "several", "refused"}[r]
}
