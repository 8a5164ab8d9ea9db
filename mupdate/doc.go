// Package mupdate speaks MUPDATE, both ends: the server that Cyrus backends and Cyrus frontends
// connect to in the place of Cyrus's own master, and a client.
//
// It implements RFC 3656 as Cyrus reads it: DEACTIVATE, partial UPDATE and COMPRESS beyond the RFC
// (Cyrus: mupdate.c), STARTTLS, SASL (RFC 4422) and DEFLATE (RFC 1951). Where the RFC and Cyrus
// differ Cyrus wins, unless Config.StrictRFC is set.
//
// The server decides nothing about mailboxes. It parses, authorises, asks its Directory and renders
// the verdicts; rules about who may hold a name live behind the Directory.
//
// Known gaps: no SASL security layers, hence no DIGEST-MD5 with confidentiality and no GSSAPI. With
// mupdate_config "replicated" locations carry no server name, which an identity that is bound to
// servers may not send.
package mupdate
