//go:build cyrus

package imapcyrus

import (
	"slices"
	"strings"
	"testing"
)

// alike are commands, right and wrong, that a frontend answers as a backend does. They change nothing.
const alike = `
NOOP
NOOP x
CAPABILITY x
SELECT
STATUS
STATUS alike
STATUS alike ()
STATUS alike (FOO)
STATUS alike (MESSAGES
STATUS nosuch (MESSAGES)
STATUS inbox (MESSAGES)
STATUS iNbOx/x (MESSAGES)
STATUS alike (MESSAGES UIDNEXT UNSEEN UIDVALIDITY SIZE)
STATUS alike (HIGHESTMODSEQ)
STATUS "alike/x y" (MESSAGES)
LIST
LIST ""
LIST "" ""
LIST alike ""
LIST alike/ ""
LIST "alike/" %
LIST alike/sub ""
LIST "" alike
LIST "" alike*
LIST "" alike/%
LIST "" alike/%/%
LIST "" al%
LIST "" *deep
LIST "" %deep
LIST "/" alike
LIST "" /alike
LIST "" alike/
LIST "" nosuch
LIST "" INBOX
LIST "" INBOX%
LIST "" (alike alike/sub)
LIST "" ()
LIST () "" alike
LIST (RECURSIVEMATCH) "" %
LIST (SPECIAL-USE) "" alike
LIST (FOO) "" alike
LIST "" alike RETURN
LIST "" alike RETURN ()
LIST "" alike RETURN (FOO)
LIST "" alike RETURN (CHILDREN)
LIST "" alike RETURN (STATUS (MESSAGES))
LIST "" alike RETURN (STATUS ())
LIST "" alike RETURN (MYRIGHTS)
LIST "" "alike/x y"
LSUB
LSUB "" ""
SUBSCRIBE
SUBSCRIBE alike
UNSUBSCRIBE nosuch
CREATE
CREATE ""
CREATE INBOX
CREATE alike
CREATE "a%b"
CREATE a&b
CREATE "Other Users"
CREATE "Shared Folders"
DELETE
DELETE nosuch
RENAME
RENAME nosuch x
RENAME alike alike/sub
RENAME alike alike
RENAME alike ""
GETACL
GETACL alike
GETACL nosuch
MYRIGHTS
MYRIGHTS alike
MYRIGHTS nosuch
LISTRIGHTS alike
LISTRIGHTS alike erin
LISTRIGHTS alike bob
LISTRIGHTS nosuch bob
SETACL alike bob xyz
SETACL alike bob
SETACL nosuch bob l
DELETEACL nosuch bob
GETQUOTAROOT alike
GETQUOTAROOT nosuch
GETQUOTA INBOX
GETQUOTA nosuch
GETMETADATA alike
GETMETADATA alike /shared/comment
GETMETADATA alike (/shared/comment /private/comment)
GETMETADATA nosuch /shared/comment
GETMETADATA (DEPTH infinity) alike /shared
GETMETADATA (MAXSIZE 1) alike /private/comment
GETMETADATA alike /foo
SETMETADATA alike (/foo "x")
SETMETADATA nosuch (/private/comment "v")
NAMESPACE
NAMESPACE x
ENABLE
APPEND alike
APPEND nosuch {3+}|abc
APPEND alike "rubbish" {3+}|abc
FETCH
FETCH 1 FLAGS
FETCH 99 FLAGS
FETCH 0 FLAGS
FETCH a FLAGS
FETCH 1 FOO
FETCH 1:* (UID FLAGS ENVELOPE RFC822.SIZE)
UID
UID FOO
UID FETCH 1:99 (FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])
UID FETCH 1 BODY.PEEK[HEADER.FIELDS ({7+}|SUBJECT)]
UID FETCH 99 FLAGS
STORE 99 FLAGS ()
SEARCH
SEARCH ALL
SEARCH FOO
SEARCH 99
SEARCH CHARSET FOO ALL
SEARCH SUBJECT {3+}|m-2
SEARCH RETURN (MIN MAX COUNT) ALL
UID SEARCH UID 99
SORT (REVERSE SUBJECT) UTF-8 ALL
SORT (FOO) UTF-8 ALL
THREAD REFERENCES UTF-8 ALL
THREAD FOO UTF-8 ALL
COPY 1
COPY a alike
COPY 99 alike
COPY 1 nosuch
COPY 1 "Shared Folders"
UID COPY 99 alike
MOVE 99 alike
MOVE 1 nosuch
UID MOVE 99 alike
UID EXPUNGE
UID EXPUNGE 99
CHECK
XYZZY
LOGIN erin x
AUTHENTICATE PLAIN
STARTTLS
UNAUTHENTICATE x
IDLE x
SELECT alike extra
FETCH 1 FLAGS
EXAMINE nosuch
FETCH 1 FLAGS
UNSELECT
CLOSE`

// What a client says about mailboxes of one server, in every state, has the same answer as there: status, response code
// where the server gives one, and data.
func TestSameAsDirect(t *testing.T) {
	setup := direct(t, world.Be1, "erin")
	for _, name := range []string{"alike", "alike/sub", "alike/sub/deep", "alike/x y"} {
		setup.ok("CREATE %q", name)
	}
	setup.append("alike", message("m-1"), message("m-2"), message("m-3"))
	setup.ok("SUBSCRIBE alike")
	strip := func(lines []string) (list []string) {
		for _, l := range lines {
			if strings.HasPrefix(l, "* BYE") || strings.HasPrefix(l, "* OK [CLOSED]") {
				l, _, _ = strings.Cut(l, "] ") // in words of our own
			}
			list = append(list, strings.NewReplacer(` \Recent`, "", `\Recent `, "", `\Recent`, "").Replace(l))
		}
		return list
	}
	for _, state := range []string{"NOOP", "EXAMINE alike", "SELECT alike"} {
		a, d := at(t, "erin"), direct(t, world.Be1, "erin")
		a.ok("%s", state)
		d.ok("%s", state)
		for cmd := range strings.SplitSeq(strings.TrimSpace(alike), "\n") {
			cmd = strings.ReplaceAll(cmd, "|", "\r\n")
			r, err := a.Conn.Do("%s", cmd)
			s, err2 := d.Conn.Do("%s", cmd)
			if err != nil || err2 != nil {
				t.Fatalf("%s, %q: %v, at the backend %v", state, cmd, err, err2)
			}
			// Cyrus: what is left of a wrong command may be wrong once more, which NOOP tells.
			a.ok("NOOP")
			d.ok("NOOP")
			want := s.Status + "..."
			if code, _, ok := strings.Cut(s.Text, " "); ok && strings.HasPrefix(code, "[") {
				want = s.Status + " " + code + "..."
			}
			if !like(want, r.Status+" "+r.Text) || !slices.Equal(strip(r.Lines), strip(s.Lines)) {
				t.Errorf("%s, %q:\n%q %s %s, at the backend\n%q %s %s", state, cmd, r.Lines, r.Status, r.Text, s.Lines, s.Status, s.Text)
			}
		}
	}
}
