//go:build cyrus

package delivery

import (
	"fmt"
	"testing"

	"murder/test/cyrus"
	"murder/test/imapline"
)

// Addresses of a site with domains, "/" between levels, forgiving names and somebody who gets the rest.
func TestAddresses(t *testing.T) {
	w := newWorld(t, options{
		unix: true,
		conf: map[string][]string{"": {"virtdomains: userid", "defaultdomain: def.test", "lmtp_fuzzy_mailbox_match: yes", "postuser: bb",
			"lmtp_downcase_rcpt: yes"}},
		flags: []string{"--set", "namespace.virtdomains=true", "--set", "namespace.defaultdomain=def.test", "--set", "lmtp.postuser=bb",
			"--set", "lmtp.fuzzy_mailbox_match=true", "--set", "lmtp.catchall=dave"},
	})
	w.admin(t, w.be1, "CREATE user/a.b", "CREATE user/a.b/x.y/z", "SETACL user/a.b/x.y/z anyone p", "CREATE shared/ann",
		"CREATE shared/ann/Team_One", "SETACL shared/ann anyone lp", "SETACL shared/ann/Team_One anyone lp")
	w.admin(t, w.be2, "CREATE user/alice@ex.test", "CREATE news@ex.test", "SETACL news@ex.test anyone lp")
	m := dialMTA(t, "tcp", w.cluster.Addr("f2", "lmtp"))
	for i, c := range []struct {
		rcpt    string
		node    *cyrus.Node
		mailbox string
	}{
		{"alice@def.test", w.be1, "user/alice"},
		{"alice", w.be1, "user/alice"},
		{"Alice@Ex.Test", w.be2, "user/alice@ex.test"},
		{"a.b@def.test", w.be1, "user/a.b"},
		{"a.b@DEF.test", w.be1, "user/a.b"},
		{"A.B@DEF.test", w.be1, "user/a.b"},
		{"a.b+x.y/z", w.be1, "user/a.b/x.y/z"},
		{"a.b+x.y/z@def.test", w.be1, "user/a.b/x.y/z"},
		{"A.B+x.y/z@def.test", w.be1, "user/a.b/x.y/z"},
		{"A.B+x.y/z@DEF.test", w.be1, "user/a.b/x.y/z"},
		{"a.b+none/at.all", w.be1, "user/a.b"},
		{"bb+shared/ann", w.be1, "shared/ann"},
		{"bb+Shared/ANN", w.be1, "shared/ann"},
		{"bb+shared/ann/team one@def.test", w.be1, ""}, // no address without quotes
		{"bb+shared/ann/team-one@def.test", w.be1, "shared/ann/Team_One"},
		{"bb+shared/ann/of/nobody", w.be1, "shared/ann"},
		{"bb+news@ex.test", w.be2, "news@ex.test"},
		{"nobody@def.test", w.be1, "user/dave"},
		{"bb+nothing", w.be1, "user/dave"},
	} {
		if c.mailbox == "" {
			m.say("MAIL FROM:<>", "250 ")
			m.say("RCPT TO:<"+c.rcpt+">", "501 5.1.3")
			m.say("RSET", "250 ")
			continue
		}
		id := fmt.Sprintf("address-%d", i)
		m.transaction("<a@example.org>", letter(id, "x\r\n"), []string{"<" + c.rcpt + ">"}, "250 2.1.5")
		w.admin(t, c.node, "SETACL "+imapline.Quote(c.mailbox)+" "+w.rig.Admin()+" lrswipkxtecda")
		if n := count(messages(t, c.node, w.rig.Admin(), c.mailbox), "Subject: "+id+"\r\n"); n != 1 {
			t.Errorf("%s: %s has %d", c.rcpt, c.mailbox, n)
		}
	}
}
