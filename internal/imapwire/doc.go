// Package imapwire holds the lexical rules that IMAP (RFC 9051 section 4), MUPDATE (RFC 3656
// section 2) and ManageSieve (RFC 5804 section 1.2) share: lines, quoted strings and literals.
//
// A command is a sequence of fragments. Each fragment is the text of one line and, when the text
// ends in a literal announcement, the literal's octets follow it on the wire. Whoever reads decides
// at every announcement whether to take the octets into memory, to stream them, or to refuse.
// Nothing is read or kept beyond the limits given.
package imapwire
