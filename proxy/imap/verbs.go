package imap

// route says where a command is executed.
type route uint8

const (
	routeLocal    route = iota // here, from the map or from what the session knows
	routeSelected              // relayed to the backend of the selected mailbox, pipelined
	routeMailbox               // at the backend of the mailbox that an argument names
	routeHome                  // at the backend of the user's INBOX
	routeMany                  // at as many backends as it takes
	routeRefuse                // known, and not available here
)

// verb is one row of the command table.
type verb struct {
	phases phase
	route  route
	run    func(*session, *command) error
	// barrier: the map changes; it must show that before the client is told.
	barrier bool
	// idempotent commands may be sent again, once, if a reused connection ended before any octet
	// of an answer.
	idempotent bool
	// admin commands exist for administrators only.
	admin bool
}

// verbs is the command table. A name that is missing is unknown: BAD.
//
// Not there on purpose: replication (SYNCAPPLY and others), LOCALCREATE, LOCALDELETE, LOCALAPPEND
// and MUPDATEPUSH, which are words between servers.
var verbs map[string]*verb

func init() {
	relay := func() *verb { return &verb{phases: selected, route: routeSelected, run: (*session).relay} }
	refuse := &verb{phases: loggedIn, route: routeRefuse, run: func(*session, *command) error { return errNotHere }}
	atMailbox := func(v verb) *verb {
		v.phases, v.route, v.run = loggedIn, routeMailbox, (*session).atMailbox
		return &v
	}
	verbs = map[string]*verb{
		// Any state.
		"CAPABILITY": {phases: anyPhase, run: (*session).capability},
		"NOOP":       {phases: anyPhase, route: routeSelected, run: (*session).noop},
		"LOGOUT":     {phases: anyPhase, run: (*session).logout},
		"ID":         {phases: anyPhase, run: (*session).ident},

		// Before login.
		"STARTTLS":     {phases: fresh, run: (*session).starttls},
		"AUTHENTICATE": {phases: fresh, run: (*session).authenticate},
		"LOGIN":        {phases: fresh, run: (*session).login},

		// The connection.
		"ENABLE":         {phases: loggedIn, run: (*session).enable},
		"NAMESPACE":      {phases: loggedIn, run: (*session).namespace},
		"COMPRESS":       {phases: loggedIn, run: (*session).compress},
		"UNAUTHENTICATE": {phases: loggedIn, run: (*session).unauthenticate},
		"IDLE":           {phases: loggedIn, run: (*session).idle},

		// Opening and closing.
		"SELECT":   {phases: loggedIn, route: routeMailbox, run: (*session).selectMailbox, idempotent: true},
		"EXAMINE":  {phases: loggedIn, route: routeMailbox, run: (*session).selectMailbox, idempotent: true},
		"CLOSE":    {phases: selected, route: routeMailbox, run: (*session).unselect},
		"UNSELECT": {phases: selected, route: routeMailbox, run: (*session).unselect},

		// Messages of the selected mailbox: framing is all that matters here.
		"CHECK":       relay(),
		"EXPUNGE":     relay(),
		"FETCH":       relay(),
		"STORE":       relay(),
		"SEARCH":      relay(),
		"SORT":        relay(),
		"THREAD":      relay(),
		"UID EXPUNGE": relay(),
		"UID FETCH":   relay(),
		"UID STORE":   relay(),
		"UID SEARCH":  relay(),
		"UID SORT":    relay(),
		"UID THREAD":  relay(),
		"UIDBATCHES":  relay(),
		"COPY":        {phases: selected, route: routeMailbox, run: (*session).copyMessages},
		"MOVE":        {phases: selected, route: routeMailbox, run: (*session).copyMessages},
		"UID COPY":    {phases: selected, route: routeMailbox, run: (*session).copyMessages},
		"UID MOVE":    {phases: selected, route: routeMailbox, run: (*session).copyMessages},

		// One mailbox.
		"APPEND":        {phases: loggedIn, route: routeMailbox, run: (*session).appendMessage},
		"REPLACE":       {phases: selected, route: routeMailbox, run: (*session).replace},
		"UID REPLACE":   {phases: selected, route: routeMailbox, run: (*session).replace},
		"STATUS":        atMailbox(verb{idempotent: true}),
		"SETACL":        atMailbox(verb{idempotent: true, barrier: true}),
		"DELETEACL":     atMailbox(verb{barrier: true}),
		"GETQUOTAROOT":  atMailbox(verb{idempotent: true}),
		"RECONSTRUCT":   atMailbox(verb{admin: true}),
		"DUMP":          atMailbox(verb{admin: true}),
		"GETQUOTA":      {phases: loggedIn, route: routeMailbox, run: (*session).quota, idempotent: true},
		"SETQUOTA":      {phases: loggedIn, route: routeMailbox, run: (*session).quota},
		"ESEARCH":       {phases: loggedIn, route: routeMany, run: (*session).esearch, idempotent: true},
		"GETMETADATA":   {phases: loggedIn, route: routeMany, run: (*session).getMetadata, idempotent: true},
		"SETMETADATA":   {phases: loggedIn, route: routeMailbox, run: (*session).setMetadata},
		"GETANNOTATION": refuse,
		"SETANNOTATION": refuse,

		// The map changes.
		"CREATE": {phases: loggedIn, route: routeMailbox, run: (*session).create, barrier: true},
		"DELETE": {phases: loggedIn, route: routeMailbox, run: (*session).remove, barrier: true},
		"RENAME": {phases: loggedIn, route: routeMailbox, run: (*session).rename, barrier: true},
		"XFER":   {phases: loggedIn, route: routeMany, run: (*session).xfer, barrier: true, admin: true},

		// From the map.
		"GETACL":     {phases: loggedIn, run: (*session).getACL},
		"MYRIGHTS":   {phases: loggedIn, run: (*session).myRights},
		"LISTRIGHTS": {phases: loggedIn, run: (*session).listRights},
		"LIST":       {phases: loggedIn, route: routeMany, run: (*session).list, idempotent: true},
		"RLIST":      {phases: loggedIn, route: routeMany, run: (*session).list, idempotent: true},
		"XLIST":      {phases: loggedIn, route: routeMany, run: (*session).xlist, idempotent: true},

		// Subscriptions, kept by the home backend.
		"LSUB":           {phases: loggedIn, route: routeHome, run: (*session).lsub, idempotent: true},
		"RLSUB":          {phases: loggedIn, route: routeHome, run: (*session).lsub, idempotent: true},
		"SUBSCRIBE":      {phases: loggedIn, route: routeHome, run: (*session).subscribe, idempotent: true},
		"UNSUBSCRIBE":    {phases: loggedIn, route: routeHome, run: (*session).subscribe, idempotent: true},
		"GETUSERGROUP":   {phases: loggedIn, route: routeHome, run: (*session).atHome, admin: true},
		"SETUSERGROUP":   {phases: loggedIn, route: routeHome, run: (*session).atHome, admin: true},
		"UNSETUSERGROUP": {phases: loggedIn, route: routeHome, run: (*session).atHome, admin: true},

		// Known elsewhere, of no meaning in front of several servers.
		"GENURLAUTH": refuse,
		"RESETKEY":   refuse,
		"URLFETCH":   refuse,
		"UNDUMP":     refuse,
	}
}
