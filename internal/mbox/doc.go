// Package mbox is the vocabulary of the project: mailbox names, locations, ACLs, the records of the
// mailbox map, and the writes that change it.
//
// Everything else points here, so the package imports only the standard library. Types that look
// alike on the wire are distinct here (Name, Extern, UserID, Server, Location), and a conversion
// between them is always a named function.
package mbox
