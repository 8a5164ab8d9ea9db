// Package imap is the IMAP frontend: it speaks to mail clients as one server and sends each command to
// the backend that holds the mailbox, as a Cyrus frontend does.
//
// The protocol is IMAP4rev1 (RFC 3501; grammar as in RFC 9051) with ACL (4314), APPEND of several
// messages (3502), AUTHENTICATE with initial response (4959), CATENATE (4469), COMPRESS (4978), ENABLE
// (5161), ID (2971), IDLE (2177), LIST-EXTENDED (5258), LIST-METADATA (9590), LIST-MYRIGHTS (8440),
// LIST-STATUS (5819), LITERAL+ (7888), METADATA (5464), MULTISEARCH (7377), NAMESPACE (2342), QUOTA
// (9208), REPLACE (8508), SPECIAL-USE (6154), UNAUTHENTICATE (8437), UNSELECT (3691) and response codes
// of 5530. Whatever else all backends have in common and needs no more than relaying is offered as well.
//
// # How it works
//
// A session has one driver, a goroutine that reads commands and executes them by the table in
// verbs.go, and at most one connection to each backend, signed on as the user by proxy authorization.
// Names, their order and their rights come from the local copy of the mailbox map; backends are asked
// for what only they have. Commands about messages of the selected mailbox are relayed by their
// framing alone (lines and literals), so extensions we have never heard of pass; the client's tag is
// used towards the backend, because answers repeat it. A second goroutine, the pump, carries the
// answers back while any is outstanding or a mailbox is selected. Literals stream through one pooled
// buffer in either direction; whoever does not read stops the other side.
//
// Most clients are silent most of the time. On Linux a session that is in IDLE, or has been silent for two
// seconds after a command, holds no goroutine, and neither does the pump of its mailbox: their sockets
// are watched by one goroutine for all (see park.go), which starts another for whoever has something to
// read. So a session costs what it has to remember, and the kernel's two sockets. One that is compressed
// keeps its goroutines, as does one that is not logged in, or has sent half a line.
//
// # What is promised
//
//   - A client that has been told OK finds what it did, here at once and on every other frontend after
//     one barrier: look-ups that miss, refusals by rights, and all answers of the kind "there is none",
//     wait for a barrier; without a quorum they are NO [UNAVAILABLE]. What is on the map is served without a quorum.
//   - A backend that cannot be reached costs its own mailboxes only: NO [UNAVAILABLE], and the session
//     goes on. A lost backend of the selected mailbox ends the session with BYE, or without a word
//     if it was lost inside a literal.
//   - A command is sent again at most once: if a connection that had been lying about ended before
//     any answer, and if the command may be executed twice.
//   - An incomplete command of the client is never completed towards a backend. Internal closing is
//     UNSELECT, never CLOSE, which expunges.
//   - An unknown truth is never shown as an empty list: subscriptions in particular.
//
// # Known gaps
//
// Names travel to the backends as the client wrote them, so all must agree on the namespace; one that
// does not is refused. In an APPEND of several messages only the first may be put together from parts
// on other servers. SEARCH over several mailboxes cannot be saved. Referrals (RFC 2193) are neither
// given nor passed on: a backend's own means "look again". NOTIFY, URLAUTH, IMAP4rev2, ANNOTATEMORE,
// OAUTHBEARER and XOAUTH2 are not offered. UTF-8 names are not normalised. UNAUTHENTICATE is
// refused while the connection is compressed. A mailbox that moves while it is selected costs the
// client a reconnection.
package imap
