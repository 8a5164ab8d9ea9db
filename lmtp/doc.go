// Package lmtp delivers mail: an LMTP server (RFC 2033) that finds each recipient's backend in the
// mailbox map and hands the message to all backends at the same time.
//
// Nothing is queued here. A recipient is answered 250 only after its own backend has answered 2xx for
// it; whatever is not certain becomes a temporary failure, never a permanent one, and a recipient
// whose outcome is known keeps it whatever happens to the others.
//
// Toward the MTA: RFC 2033, RFC 5321 grammar, PIPELINING (RFC 2920), ENHANCEDSTATUSCODES (RFC 2034),
// 8BITMIME (RFC 6152), SIZE (RFC 1870), STARTTLS (RFC 3207), AUTH (RFC 4954), and Cyrus's IGNOREQUOTA.
// Toward backends the same, as a client.
//
// The messages that leave here are not the octets that came in: lone CR are dropped, lone LF become
// line ends, and dots are stuffed anew after that. Cyrus ends DATA on more than CRLF.CRLF, so anything
// less would let a sender's message speak LMTP to a backend.
//
// Known gaps: SMTPUTF8 (backends refuse it), DSN, CHUNKING and BINARYMIME are not offered; unless
// Config.CheckAtBackend is set, a full mailbox is reported after the data and not at RCPT.
package lmtp
