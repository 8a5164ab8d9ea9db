package imap

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"murder/internal/mbox"
)

// capSet is a set of capabilities in upper case. A nil set is empty.
type capSet map[string]struct{}

func (c capSet) has(name string) bool { _, ok := c[name]; return ok }

func parseCaps(text string) capSet {
	set := make(capSet)
	for _, name := range strings.Fields(text) {
		set[strings.ToUpper(name)] = struct{}{}
	}
	return set
}

// capTexts remembers sets by their text: each server says the same at each login.
type capTexts struct {
	mu   sync.RWMutex
	sets map[string]capSet
}

// maxCapTexts bounds them; there are two for each version of a server.
const maxCapTexts = 100

func (t *capTexts) parse(text string) capSet {
	t.mu.RLock()
	set, ok := t.sets[text]
	t.mu.RUnlock()
	if ok {
		return set
	}
	set = parseCaps(text)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sets == nil || len(t.sets) == maxCapTexts {
		t.sets = make(map[string]capSet)
	}
	t.sets[text] = set
	return set
}

// own are the capabilities that are ours alone, whatever the backends can do.
const own = "IMAP4rev1 LITERAL+ ID ENABLE"

// ownLoggedIn are those of them that concern a user. CHILDREN, LIST-EXTENDED and LIST-MYRIGHTS come
// from the map; IDLE is polled where a backend lacks it; STATUS in LIST is asked one by one there.
const ownLoggedIn = "NAMESPACE CHILDREN UNSELECT IDLE LIST-EXTENDED LIST-STATUS LIST-MYRIGHTS ACL RIGHTS=kxten UNAUTHENTICATE"

// shared are capabilities that every backend must have before any client hears of them. A name that
// ends in "=" or "*" stands for all with that beginning.
//
// Never passed on are, by not being here: what belongs to one server's own connections and neighbours
// (MUPDATE=, X-REPLICATION, STARTTLS, AUTH=), what would give a backend's address away (URLAUTH,
// referrals, XAPPLEPUSHSERVICE, JMAPACCESS), and what this frontend would have to take part in and
// does not (NOTIFY, IMAP4rev2, and UIDONLY, whose answers copies between servers do not read).
var shared = strings.Fields(`
	UIDPLUS MOVE REPLACE MULTIAPPEND BINARY CATENATE SPECIAL-USE CREATE-SPECIAL-USE XLIST
	CONDSTORE QRESYNC UIDBATCHES PARTIAL PREVIEW PREVIEW=* SAVEDATE OBJECTID STATUS=SIZE SAVELIMIT=
	ESEARCH SEARCHRES SORT SORT=* ESORT THREAD=* WITHIN SEARCH=* CONTEXT=*
	METADATA QUOTA QUOTASET QUOTA=* X-QUOTA=* UTF8=ACCEPT INPROGRESS ANNOTATE-EXPERIMENT-1
	APPENDLIMIT= MESSAGELIMIT=`)

func isShared(name string) bool {
	for _, s := range shared {
		if prefix, ok := strings.CutSuffix(s, "*"); ok && strings.HasPrefix(name, prefix) {
			return true
		}
		if s == name || strings.HasSuffix(s, "=") && strings.HasPrefix(name, s) {
			return true
		}
	}
	return false
}

// capTable knows what each backend could do when last seen. A backend that is down keeps its row. The zero value can
// be used for greetings alone.
type capTable struct {
	suppress  []string
	maxAppend int64 // octets that clients may append, 0 for what the backends allow
	texts     capTexts
	mu        sync.RWMutex
	servers   map[mbox.Server]capSet
	greets    map[mbox.Server]greeting
	offer     offer
}

// greeting is what a backend offers before login, after TLS if there is any, and when it was heard.
type greeting struct {
	capSet
	at time.Time
}

func newCapTable(suppress []string, maxAppend int64) *capTable {
	t := &capTable{suppress: suppress, maxAppend: maxAppend, servers: make(map[mbox.Server]capSet)}
	t.offer = t.offerOf(nil)
	return t
}

// learn notes what a backend offers a user who is logged in.
func (t *capTable) learn(server mbox.Server, caps capSet) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known, ok := t.servers[server]
	t.servers[server] = caps
	if !ok || !maps.Equal(known, caps) {
		t.offer = t.offerOf(t.intersect())
	}
}

// keep drops the backends that are no longer part of the Murder.
func (t *capTable) keep(servers []mbox.Server) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := len(t.servers)
	gone := func(server mbox.Server) bool { return !slices.Contains(servers, server) }
	maps.DeleteFunc(t.servers, func(server mbox.Server, _ capSet) bool { return gone(server) })
	maps.DeleteFunc(t.greets, func(server mbox.Server, _ greeting) bool { return gone(server) })
	if len(t.servers) != known {
		t.offer = t.offerOf(t.intersect())
	}
}

func (t *capTable) of(server mbox.Server) capSet {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.servers[server]
}

// greetingFor is how long a sign-on may rely on what an earlier one has heard.
const greetingFor = 10 * time.Minute

// greeted returns what a backend offers before login, nil if that was not heard lately.
func (t *capTable) greeted(server mbox.Server) capSet {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if g := t.greets[server]; time.Since(g.at) < greetingFor {
		return g.capSet
	}
	return nil
}

// greet notes it; nil makes the next sign-on hear for itself.
func (t *capTable) greet(server mbox.Server, caps capSet) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if caps == nil {
		delete(t.greets, server)
	} else if g, ok := t.greets[server]; !ok || time.Since(g.at) > greetingFor/2 {
		if t.greets == nil {
			t.greets = make(map[mbox.Server]greeting)
		}
		t.greets[server] = greeting{caps, time.Now()}
	}
}

// offered returns what clients are told now.
func (t *capTable) offered() offer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.offer
}

// intersect returns what all known backends have in common and clients may know.
func (t *capTable) intersect() capSet {
	var common capSet
	for _, caps := range t.servers {
		next := make(capSet)
		for name := range caps {
			key, value, limit := strings.Cut(name, "=")
			limit = limit && strings.HasSuffix(key, "LIMIT")
			switch {
			case !isShared(name):
			case limit: // the smallest counts
				if common == nil {
					next[name] = struct{}{}
				} else if other, ok := common.limit(key); ok {
					next[key+"="+strconv.FormatInt(min(other, number(value)), 10)] = struct{}{}
				}
			case common == nil || common.has(name):
				next[name] = struct{}{}
			}
		}
		common = next
	}
	return common
}

// limit returns the value of a capability such as APPENDLIMIT=n.
func (c capSet) limit(key string) (int64, bool) {
	for name := range c {
		if k, v, ok := strings.Cut(name, "="); ok && k == key {
			return number(v), true
		}
	}
	return 0, false
}

func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// offer is what clients are told at login.
type offer struct {
	capSet        // what all known backends have in common
	text   string // the whole list
}

// offerOf puts together the list for a client who is logged in.
func (t *capTable) offerOf(common capSet) offer {
	list := append(strings.Fields(own+" "+ownLoggedIn), "COMPRESS=DEFLATE")
	from := len(list)
	for _, row := range synthesised {
		if common.has(row.of) && !common.has(row.name) {
			list = append(list, row.name)
		}
	}
	for name := range common {
		if key, value, ok := strings.Cut(name, "="); ok && key == "APPENDLIMIT" && t.maxAppend > 0 {
			name = key + "=" + strconv.FormatInt(min(number(value), t.maxAppend), 10)
		}
		list = append(list, name)
	}
	slices.Sort(list[from:])
	return offer{common, t.shown(list)}
}

// synthesised are capabilities that we make of others which all backends have.
var synthesised = [...]struct{ name, of string }{
	{"LIST-METADATA", "METADATA"},
	{"MULTISEARCH", "ESEARCH"},
	{"REPLACE", "UIDPLUS"},
}

// shown is a list without what the operator hides.
func (t *capTable) shown(list []string) string {
	list = slices.DeleteFunc(list, func(name string) bool { return slices.Contains(t.suppress, strings.ToUpper(name)) })
	return strings.Join(list, " ")
}

// capabilities returns the list for the session's present state. It asks nobody.
func (s *session) capabilities() string {
	switch {
	case s.deflated:
		return strings.Replace(s.promised.text, " COMPRESS=DEFLATE", "", 1)
	case s.phase != fresh:
		return s.promised.text
	}
	list := strings.Fields(own)
	if s.cfg.TLS != nil && !s.secure() {
		list = append(list, "STARTTLS")
	}
	if !s.cfg.Auth.PlaintextAllowed(s.authConn()) {
		list = append(list, "LOGINDISABLED")
	}
	for _, mech := range s.cfg.Auth.Names(s.authConn()) {
		list = append(list, "AUTH="+mech)
	}
	return s.srv.caps.shown(append(list, "SASL-IR"))
}

func (s *session) capability(c *command) error {
	if err := s.say("* CAPABILITY " + s.capabilities() + "\r\n"); err != nil {
		return err
	}
	return ok("Completed")
}
