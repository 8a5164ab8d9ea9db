// Package socketmap answers the MTA's questions: whether a recipient exists, and where mail for it
// goes. It speaks Sendmail's and Postfix's socketmap protocol (netstrings), Postfix's tcp_table
// protocol, and JSON over HTTP.
//
// An active mailbox is answered from the local copy of the map. That something does not exist is said
// only after a read barrier; whatever is not certain is a temporary failure, so the MTA tries again.
//
// None of these protocols knows passwords: listen on unix sockets or loopback.
//
// Maps, by the name in the request: mailbox and mailbox-strict (existence; strict wants the addressed
// folder too), transport (the backend's LMTP address), transport-proxy (a fixed value for all that
// exist), backend (the server of a user). Known gap: no quota, which the map does not hold.
package socketmap
