// Package cyrus starts real Cyrus IMAP servers (Debian's packages of 3.6, or those that MURDER_CYRUS
// names) for tests: backends, frontends and, for comparison, Cyrus's own MUPDATE master, all on
// loopback addresses of one machine, and tells the stories of a Murder whose MUPDATE server is ours.
//
// Nothing outside the rig's own temporary directory is changed. Every server runs in a mount
// namespace of its own, where /dev/log is the rig's collector and /etc/services and /etc/hosts are
// the rig's files, and in a process namespace of its own, so that the death of its first process,
// or of the test, ends all of it. That needs root and Linux; see Missing.
//
// What a Murder on one machine depends on, beyond the manuals:
//
//   - A location carries a backend's servername, and frontends as well as the source of an XFER
//     resolve that very word, with the service names imap, lmtp, pop3 and sieve; the client of the
//     MUPDATE protocol asks for the service mupdate. Debian's /etc/services lacks lmtp and mupdate.
//   - Cyrus: the port of the MUPDATE server is taken from mupdate_server (host:port) alone.
//   - Cyrus: a node with mupdate_server and proxyservers is a backend, one without proxyservers a
//     frontend. The proxy identity must be an admin of the backends (LMTP over TCP, and the
//     receiving side of an XFER), and must not be one of a frontend.
//   - SASL accounts belong to the realm servername, so each node has an account file of its own.
//
// The stories have the build tag cyrus (`make test-cyrus`). Where something is missing they say
// what, and skip; with MURDER_REQUIRE_CYRUS=1 they fail instead.
package cyrus
