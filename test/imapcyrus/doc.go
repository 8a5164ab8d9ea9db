// Package imapcyrus holds the stories of the IMAP frontend in front of real Cyrus backends: what a client
// sees through a frontend is what it would see at the backends, or better. The numbers in names of
// subtests are those of the list of cases that the frontend was built to.
//
// All stories share two backends, three coordinators and two frontends, with these mailboxes: alice,
// erin and frank on be1; bob, carol and dave on be2; the shared folder "shared" on be2, open to everybody; bob's
// folder "proj", which alice may use. Build tag cyrus; see package cyrus for what they need.
package imapcyrus
