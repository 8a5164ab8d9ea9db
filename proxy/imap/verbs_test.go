package imap

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestVerbsPageIsCurrent(t *testing.T) {
	var b bytes.Buffer
	if err := WriteVerbs(&b); err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../../docs/imap-verbs.md")
	if err != nil || !bytes.Equal(have, b.Bytes()) {
		t.Error("docs/imap-verbs.md is not what the table says: run make docs", err)
	}
}

// samples are arguments for every command that takes some. $BOX is a shared folder on b2, $NEW a name
// below it, $HERE a folder of alice's on b1.
var samples = map[string]string{
	"ID": "NIL", "AUTHENTICATE": "PLAIN", "LOGIN": "alice pw", "ENABLE": "X", "COMPRESS": "DEFLATE",
	"SELECT": "$BOX", "EXAMINE": "$BOX",
	"CHECK": "", "EXPUNGE": "", "FETCH": "1 FLAGS", "STORE": "1 +FLAGS (x)", "SEARCH": "ALL", "SORT": "(DATE) UTF-8 ALL", "THREAD": "REFERENCES UTF-8 ALL",
	"UID EXPUNGE": "1", "UID FETCH": "1 FLAGS", "UID STORE": "1 +FLAGS (x)", "UID SEARCH": "ALL", "UID SORT": "(DATE) UTF-8 ALL",
	"UID THREAD": "REFERENCES UTF-8 ALL", "UIDBATCHES": "10", "CANCELUPDATE": `"x"`,
	"COPY": "1 $HERE", "MOVE": "1 $HERE", "UID COPY": "1 $HERE", "UID MOVE": "1 $HERE",
	"APPEND": "$BOX {3+}\r\nabc", "REPLACE": "1 $HERE {3+}\r\nabc", "UID REPLACE": "1 $HERE {3+}\r\nabc",
	"STATUS": "$BOX (MESSAGES)", "SETACL": "$BOX bob lr", "DELETEACL": "$BOX bob", "GETQUOTAROOT": "$BOX", "GETQUOTA": "$BOX", "SETQUOTA": "$BOX (STORAGE 1)",
	"SETMETADATA": `$BOX (/shared/comment "x")`, "RECONSTRUCT": "$BOX", "DUMP": "$BOX",
	"CREATE": "$NEW", "DELETE": "$BOX", "RENAME": "$BOX $NEW", "XFER": "$BOX b1",
	"GETACL": "$BOX", "MYRIGHTS": "$BOX", "LISTRIGHTS": "$BOX bob",
	"LIST": `"" *`, "XLIST": `"" *`, "RLIST": `"" *`, "LSUB": `"" *`, "RLSUB": `"" *`, "SUBSCRIBE": "INBOX", "UNSUBSCRIBE": "INBOX",
	"GETMETADATA": "INBOX /shared/comment", "ESEARCH": "IN (mailboxes INBOX) ALL",
	"GETUSERGROUP": "x", "SETUSERGROUP": "x y", "UNSETUSERGROUP": "x y",
	"GETANNOTATION": "x", "SETANNOTATION": "x", "GENURLAUTH": "x", "RESETKEY": "", "URLFETCH": "x", "UNDUMP": "x {3+}\r\nabc",
}

// sample is a command of verb v by alice or, where it needs one, by an administrator.
func (v *verb) sample() string {
	names := strings.NewReplacer("$BOX", `"Shared Folders/shared"`, "$NEW", `"Shared Folders/shared/new"`, "$HERE", "Work")
	if v.admin {
		names = strings.NewReplacer("$BOX", "shared")
	}
	return strings.TrimSpace(v.name + " " + names.Replace(samples[v.name]))
}

// here reports whether the sample concerns b1 rather than b2.
func (v *verb) here() bool {
	return v.route != routeMailbox || strings.Contains(samples[v.name], "$HERE")
}

// wire is the command as backends get it.
func (v *verb) wire() string { return ": " + strings.ReplaceAll(v.name, "RLSUB", "LSUB") }

func TestVerbTable(t *testing.T) {
	for _, v := range table() {
		args, ok := samples[v.name]
		if ok == v.bare {
			t.Errorf("%s: bare is %v, sample %v", v.name, v.bare, ok)
		}
		if at := 1 + slices.IndexFunc(strings.Fields(args), func(s string) bool { return s[0] == '$' }); at != v.mailbox {
			t.Errorf("%s: the mailbox is argument %d of the sample, %d in the table", v.name, at, v.mailbox)
		}
		if v.route == routeMailbox && v.mailbox == 0 {
			t.Errorf("%s is executed where a mailbox is that no argument names", v.name)
		}
	}
}

// A command in the wrong state, with arguments that it does not take, or of somebody who may not give
// it costs the client the command and no more.
func TestVerbsThatMayNot(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Limits.BadLines = 1000 })
	check := func(d *dialogue, what, line, want string) {
		t.Helper()
		d.send("x " + line)
		if got := d.until("x"); len(got) != 1 || !likeness("x "+want).MatchString(got[0]) {
			t.Errorf("%s %.40q: got %q, want %q", what, line, got, want)
		}
	}
	stranger, user, reader := r.open("S"), r.login("U", "alice"), r.login("R", "alice")
	stranger.expect("* OK ...")
	reader.send("s SELECT INBOX")
	reader.until("s")
	for _, v := range table() {
		for _, c := range []struct {
			phase phase
			d     *dialogue
			what  string
			want  string
		}{{fresh, stranger, "before login", "BAD Log in first"}, {authed, user, "logged in", "BAD ..."}, {selected, reader, "selected", "BAD Already logged in"}} {
			switch {
			case v.phases&c.phase == 0:
				check(c.d, c.what, v.sample(), c.want)
			case v.admin:
				check(c.d, c.what, v.sample(), "NO [NOPERM] ...")
			case v.route == routeRefuse:
				check(c.d, c.what, v.sample(), "NO [CANNOT] ...")
			case v.bare:
				check(c.d, c.what, v.name+" x", "BAD ...takes no arguments")
			}
		}
	}
	for _, d := range []*dialogue{stranger, user, reader} {
		check(d, "afterwards", "NOOP", "OK ...")
	}
}

// verbRig is a rig with a session that may give a command, with INBOX open.
func verbRig(t *testing.T, v *verb) (*rig, *dialogue) {
	r := newRig(t)
	r.stubs["b1"].caps += " REPLACE"
	r.stubs["b1"].add("user.cyrus", "cyrus\tlrswipkxte\t")
	r.stubs["b2"].add("shared", "anyone\tlrswipkxtea\t")
	user, inbox := "alice", "INBOX"
	if v.admin {
		user, inbox = "cyrus", "user/alice"
	}
	d := r.login("A", user)
	d.send("s SELECT " + inbox)
	d.until("s")
	return r, d
}

// Every command reaches the backend that the table says, and no other.
func TestVerbsGoWhereTheTableSays(t *testing.T) {
	for _, v := range table() {
		if v.phases&loggedIn == 0 || v.route == routeMany || v.route == routeRefuse || v.name == "LOGOUT" || v.name == "COMPRESS" ||
			v.name == "IDLE" || v.name == "UNAUTHENTICATE" {
			continue // each has its own story
		}
		t.Run(v.name, func(t *testing.T) {
			r, d := verbRig(t, &v)
			r.stubs["b1"].forget()
			d.send("x " + v.sample())
			d.until("x")
			saw := [2]bool{r.stubs["b1"].saw(v.wire()), r.stubs["b2"].saw(v.wire())}
			want := [2]bool{v.here(), !v.here()}
			if v.route == routeLocal {
				want = [2]bool{}
			}
			if saw != want {
				t.Errorf("seen by %v, want %v\nb1 %q\nb2 %q", saw, want, r.stubs["b1"].commands(), r.stubs["b2"].commands())
			}
		})
	}
}

// What may be sent again is sent again, once, and nothing else is; what changes the map is answered
// when the map shows it.
func TestVerbsAgain(t *testing.T) {
	for _, v := range table() {
		if v.stream || v.bare || v.route != routeMailbox && v.route != routeHome || v.route == routeMailbox && v.here() {
			continue
		}
		t.Run(v.name, func(t *testing.T) {
			r, d := verbRig(t, &v)
			at := r.stubs["b2"]
			if v.here() {
				at = r.stubs["b1"]
				d.send("u UNSELECT") // the loss of the selected mailbox is another story
				d.until("u")
			} else {
				d.send("u " + verbs["STATUS"].sample())
				if v.admin {
					d.send("u STATUS shared (MESSAGES)")
				}
				d.until("u")
			}
			at.forget()
			at.fail(strings.TrimPrefix(v.wire(), ": "), "close")
			d.send("x " + v.sample())
			last := d.until("x")
			sent := 0
			for _, seen := range at.commands() {
				if strings.Contains(seen, v.wire()+" ") {
					sent++
				}
			}
			want, answer := 1, "x NO [UNAVAILABLE]..."
			if v.idempotent {
				want, answer = 2, "x OK..."
			}
			if got := last[len(last)-1]; sent != want || !likeness(answer).MatchString(got) {
				t.Errorf("sent %d times, want %d: %q", sent, want, got)
			}
			if !v.barrier {
				return
			}
			before := r.dir.count()
			d.send("y " + v.sample())
			if got := d.until("y"); !strings.HasPrefix(got[len(got)-1], "y OK") || r.dir.count() == before {
				t.Errorf("%q after %d barriers", got, r.dir.count()-before)
			}
		})
	}
}

// registered are the commands that IANA's registry of IMAP capabilities knows, as of 2026, beside those of
// RFC 3501, by capability. "-" means that the capability is never offered, nor is the command known.
var registered = map[string]string{
	"ACL": "SETACL DELETEACL GETACL LISTRIGHTS MYRIGHTS", "COMPRESS=DEFLATE": "COMPRESS", "CONTEXT=SEARCH": "CANCELUPDATE",
	"CONVERT": "-CONVERT", "ENABLE": "ENABLE", "ID": "ID", "IDLE": "IDLE", "JMAPACCESS": "-GETJMAPACCESS", "LANGUAGE": "-LANGUAGE",
	"I18NLEVEL=2": "-COMPARATOR", "MAILBOX-REFERRALS": "RLIST RLSUB", "METADATA": "GETMETADATA SETMETADATA", "MOVE": "MOVE",
	"MULTISEARCH": "ESEARCH", "NAMESPACE": "NAMESPACE", "NOTIFY": "-NOTIFY", "QUOTA": "GETQUOTA GETQUOTAROOT", "QUOTASET": "SETQUOTA",
	"REPLACE": "REPLACE", "SORT": "SORT", "STARTTLS": "STARTTLS", "THREAD": "THREAD", "UIDBATCHES": "UIDBATCHES",
	"UNAUTHENTICATE": "UNAUTHENTICATE", "UNSELECT": "UNSELECT", "URLAUTH": "GENURLAUTH RESETKEY URLFETCH",
	"IMAP4REV1": "CAPABILITY NOOP LOGOUT AUTHENTICATE LOGIN SELECT EXAMINE CREATE DELETE RENAME SUBSCRIBE UNSUBSCRIBE LIST LSUB STATUS APPEND CHECK CLOSE EXPUNGE SEARCH FETCH STORE COPY",
}

func TestVerbsOfTheRegistry(t *testing.T) {
	for capability, names := range registered {
		for name := range strings.FieldsSeq(names) {
			bare, left := strings.CutPrefix(name, "-")
			if known := verbs[bare] != nil; known == left {
				t.Errorf("%s of %s: in the table %v", bare, capability, known)
			}
			if left && isShared(capability) {
				t.Errorf("%s is offered without %s", capability, bare)
			}
		}
	}
	// Words between servers, and those that others have for what is not offered here.
	for _, name := range strings.Fields("SYNCAPPLY SYNCGET SYNCRESTART SYNCRESTORE LOCALCREATE LOCALDELETE LOCALAPPEND MUPDATEPUSH XMOVE SCAN XAPPLEPUSHSERVICE XWARMUP") {
		if verbs[name] != nil {
			t.Errorf("%s is taken", name)
		}
	}
}
