package imap

// route says where a command is executed.
type route uint8

const (
	routeLocal    route = iota // here, from the map or from what the session knows
	routeRelay                 // passed on to the backend of the selected mailbox as it comes; others may follow before the answer
	routeSelected              // at the backend of the selected mailbox
	routeMailbox               // at the backend of the mailbox that an argument names
	routeHome                  // at the backend of the user's INBOX
	routeMany                  // at as many backends as it takes
	routeRefuse                // known, and not available here
)

// verb is one row of the command table. What the table says is what happens, for every row alike (see
// dispatch, ask and conclude); docs/imap-verbs.md and the tests are made from it too.
type verb struct {
	name   string // "UID FETCH" in two words
	phases phase
	route  route
	// mailbox is which argument names the mailbox (or, for quota, its root), from 1; 0 for none.
	mailbox int
	// bare commands take no arguments.
	bare bool
	// stream commands deal with their literals as they come, as those do that are relayed. Those of the
	// others have been read when the function runs.
	stream bool
	// barrier: the map changes; it must show that before the client is told.
	barrier bool
	// idempotent commands may be sent again, once, if a reused connection ended before any octet
	// of an answer.
	idempotent bool
	// admin commands exist for administrators only.
	admin bool
	run   func(*session, *command) error
	note  string // for the documentation
}

// verbs is the command table by name. A name that is missing is unknown: BAD.
var verbs = make(map[string]*verb)

func init() {
	for _, v := range table() {
		verbs[v.name] = &v
	}
}

// table is a function because its functions lead back to it.
//
// Not there on purpose: replication (SYNCAPPLY and others), LOCALCREATE, LOCALDELETE, LOCALAPPEND
// and MUPDATEPUSH, which are words between servers.
func table() []verb {
	return []verb{
		{name: "CAPABILITY", phases: anyPhase, bare: true, run: (*session).capability, note: "Computed from what all backends have in common; asks nobody."},
		{name: "NOOP", phases: anyPhase, route: routeRelay, bare: true, run: (*session).noop, note: "Without a selected mailbox, here."},
		{name: "LOGOUT", phases: anyPhase, bare: true, run: (*session).logout},
		{name: "ID", phases: anyPhase, run: (*session).ident, note: "Answered for ourselves; backends are told what the client said, and where it comes from."},

		{name: "STARTTLS", phases: fresh, bare: true, run: (*session).starttls},
		{name: "AUTHENTICATE", phases: fresh, stream: true, run: (*session).authenticate},
		{name: "LOGIN", phases: fresh, stream: true, run: (*session).login},

		{name: "ENABLE", phases: loggedIn, run: (*session).enable, note: "Replayed at every backend before anything else."},
		{name: "NAMESPACE", phases: loggedIn, bare: true, run: (*session).namespace},
		{name: "COMPRESS", phases: loggedIn, run: (*session).compress, note: "Towards the client only."},
		{name: "UNAUTHENTICATE", phases: loggedIn, bare: true, run: (*session).unauthenticate},
		{name: "IDLE", phases: loggedIn, stream: true, bare: true, run: (*session).idle, note: "A backend without IDLE is polled."},

		{name: "SELECT", phases: loggedIn, route: routeMailbox, mailbox: 1, idempotent: true, run: (*session).selectMailbox},
		{name: "EXAMINE", phases: loggedIn, route: routeMailbox, mailbox: 1, idempotent: true, run: (*session).selectMailbox},
		{name: "CLOSE", phases: selected, route: routeSelected, bare: true, run: (*session).unselect},
		{name: "UNSELECT", phases: selected, route: routeSelected, bare: true, run: (*session).unselect},

		{name: "CHECK", phases: selected, route: routeRelay, run: (*session).relay},
		{name: "EXPUNGE", phases: selected, route: routeRelay, run: (*session).relay},
		{name: "FETCH", phases: selected, route: routeRelay, run: (*session).relay},
		{name: "STORE", phases: selected, route: routeRelay, run: (*session).relay},
		{name: "SEARCH", phases: selected, route: routeRelay, run: (*session).relay},
		{name: "SORT", phases: selected, route: routeRelay, run: (*session).relay},
		{name: "THREAD", phases: selected, route: routeRelay, run: (*session).relay},
		{name: "UID EXPUNGE", phases: selected, route: routeRelay, run: (*session).relay},
		{name: "UID FETCH", phases: selected, route: routeRelay, run: (*session).relay},
		{name: "UID STORE", phases: selected, route: routeRelay, run: (*session).relay},
		{name: "UID SEARCH", phases: selected, route: routeRelay, run: (*session).relay},
		{name: "UID SORT", phases: selected, route: routeRelay, run: (*session).relay},
		{name: "UID THREAD", phases: selected, route: routeRelay, run: (*session).relay},
		{name: "UIDBATCHES", phases: selected, route: routeRelay, run: (*session).relay},
		{name: "CANCELUPDATE", phases: selected, route: routeRelay, run: (*session).relay},

		{name: "COPY", phases: selected, route: routeMailbox, mailbox: 2, run: (*session).copyMessages, note: "To another backend by one APPEND: all messages or none."},
		{name: "MOVE", phases: selected, route: routeMailbox, mailbox: 2, run: (*session).copyMessages, note: "To another backend by APPEND, then removal: at worst a copy stays."},
		{name: "UID COPY", phases: selected, route: routeMailbox, mailbox: 2, run: (*session).copyMessages},
		{name: "UID MOVE", phases: selected, route: routeMailbox, mailbox: 2, run: (*session).copyMessages},
		{name: "APPEND", phases: loggedIn, route: routeMailbox, mailbox: 1, stream: true, run: (*session).appendMessage, note: "Messages pass through as they come, and are kept nowhere."},
		{name: "REPLACE", phases: selected, route: routeMailbox, mailbox: 2, stream: true, run: (*session).replace, note: "To another backend by APPEND, then removal."},
		{name: "UID REPLACE", phases: selected, route: routeMailbox, mailbox: 2, stream: true, run: (*session).replace},

		{name: "STATUS", phases: loggedIn, route: routeMailbox, mailbox: 1, idempotent: true, run: (*session).atMailbox},
		{name: "SETACL", phases: loggedIn, route: routeMailbox, mailbox: 1, idempotent: true, barrier: true, run: (*session).atMailbox},
		{name: "DELETEACL", phases: loggedIn, route: routeMailbox, mailbox: 1, barrier: true, run: (*session).atMailbox},
		{name: "GETQUOTAROOT", phases: loggedIn, route: routeMailbox, mailbox: 1, idempotent: true, run: (*session).atMailbox},
		{name: "GETQUOTA", phases: loggedIn, route: routeMailbox, mailbox: 1, idempotent: true, run: (*session).quota, note: "Refused where mailboxes below the root are on several backends."},
		{name: "SETQUOTA", phases: loggedIn, route: routeMailbox, mailbox: 1, run: (*session).quota},
		{name: "SETMETADATA", phases: loggedIn, route: routeMailbox, mailbox: 1, run: (*session).setMetadata, note: "Entries of the server (\"\") are not changed here."},
		{name: "RECONSTRUCT", phases: loggedIn, route: routeMailbox, mailbox: 1, admin: true, run: (*session).atMailbox},
		{name: "DUMP", phases: loggedIn, route: routeMailbox, mailbox: 1, admin: true, run: (*session).atMailbox},

		{name: "CREATE", phases: loggedIn, route: routeMailbox, mailbox: 1, barrier: true, run: (*session).create, note: "Where the parent is; without a parent where the administrator or imap.placement says."},
		{name: "DELETE", phases: loggedIn, route: routeMailbox, mailbox: 1, barrier: true, run: (*session).remove},
		{name: "RENAME", phases: loggedIn, route: routeMailbox, mailbox: 1, barrier: true, run: (*session).rename, note: "With a location: a move to that backend or partition. Not to a parent on another backend."},
		{name: "XFER", phases: loggedIn, route: routeMany, mailbox: 1, barrier: true, admin: true, run: (*session).xfer, note: "At each mailbox's own backend; whole users and shared mailboxes."},

		{name: "GETACL", phases: loggedIn, mailbox: 1, run: (*session).getACL},
		{name: "MYRIGHTS", phases: loggedIn, mailbox: 1, run: (*session).myRights},
		{name: "LISTRIGHTS", phases: loggedIn, mailbox: 1, run: (*session).listRights},

		{name: "LIST", phases: loggedIn, route: routeMany, idempotent: true, run: (*session).list, note: "From the map; backends are asked for STATUS, METADATA, SPECIAL-USE and subscriptions only."},
		{name: "XLIST", phases: loggedIn, route: routeMany, idempotent: true, run: (*session).xlist},
		{name: "RLIST", phases: loggedIn, route: routeMany, idempotent: true, run: (*session).list, note: "As LIST; nobody is referred elsewhere."},
		{name: "LSUB", phases: loggedIn, route: routeHome, idempotent: true, run: (*session).lsub},
		{name: "RLSUB", phases: loggedIn, route: routeHome, idempotent: true, run: (*session).lsub},
		{name: "SUBSCRIBE", phases: loggedIn, route: routeHome, idempotent: true, run: (*session).subscribe},
		{name: "UNSUBSCRIBE", phases: loggedIn, route: routeHome, idempotent: true, run: (*session).subscribe},
		{name: "GETMETADATA", phases: loggedIn, route: routeMany, idempotent: true, run: (*session).getMetadata},
		{name: "ESEARCH", phases: loggedIn, route: routeMany, idempotent: true, run: (*session).esearch, note: "Each mailbox is searched on a connection of its own."},

		{name: "GETUSERGROUP", phases: loggedIn, route: routeHome, admin: true, run: (*session).atHome},
		{name: "SETUSERGROUP", phases: loggedIn, route: routeHome, admin: true, run: (*session).atHome},
		{name: "UNSETUSERGROUP", phases: loggedIn, route: routeHome, admin: true, run: (*session).atHome},

		{name: "GETANNOTATION", phases: loggedIn, route: routeRefuse, run: (*session).notHere},
		{name: "SETANNOTATION", phases: loggedIn, route: routeRefuse, run: (*session).notHere},
		{name: "GENURLAUTH", phases: loggedIn, route: routeRefuse, run: (*session).notHere},
		{name: "RESETKEY", phases: loggedIn, route: routeRefuse, run: (*session).notHere},
		{name: "URLFETCH", phases: loggedIn, route: routeRefuse, run: (*session).notHere},
		{name: "UNDUMP", phases: loggedIn, route: routeRefuse, stream: true, run: (*session).notHere},
	}
}

// notHere answers commands that are known elsewhere and have no meaning in front of several servers.
func (s *session) notHere(*command) error { return errNotHere }
