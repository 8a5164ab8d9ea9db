package mbox

// Namespace says how the names of the map look to IMAP clients. All servers of a Murder must agree
// on it, because names travel to the backends as the client wrote them.
type Namespace struct {
	// Alt puts a user's own folders beside INBOX instead of below it. Cyrus: altnamespace.
	Alt bool
	// Dot makes "." the hierarchy separator instead of "/". Cyrus: unixhierarchysep off.
	Dot bool
	// Prefixes of the alternative namespace, without separator; "" means Cyrus's "Other Users",
	// "Shared Folders" and "Alt Folders". Cyrus: userprefix, sharedprefix, altprefix.
	UserPrefix, SharedPrefix, AltPrefix string
	// Virtual keeps the domains of user names apart. Cyrus: virtdomains: userid.
	Virtual bool
	// DefaultDomain is the domain whose names carry none.
	DefaultDomain string
	// CrossDomains shows mailboxes of other domains to users.
	CrossDomains bool
	// Deleted is the top of the tree of deleted mailboxes; "" means "DELETED".
	Deleted string
}
