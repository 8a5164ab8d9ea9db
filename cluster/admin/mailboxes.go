package admin

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"murder/internal/mbox"
)

const (
	defaultPage = 1000
	maxPage     = 10000
	// maxScan is how many records one page may look at: a condition that hardly anything meets gives
	// short pages.
	maxScan = 500_000
)

func (q MailboxQuery) values() url.Values {
	v := make(url.Values)
	for key, value := range map[string]string{"prefix": q.Prefix, "pattern": q.Pattern, "server": q.Server, "state": q.State, "after": q.After} {
		if value != "" {
			v.Set(key, value)
		}
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Consistent {
		v.Set("consistent", "1")
	}
	return v
}

func parseMailboxQuery(v url.Values) (MailboxQuery, error) {
	q := MailboxQuery{
		Prefix: v.Get("prefix"), Pattern: v.Get("pattern"), Server: v.Get("server"), State: v.Get("state"),
		After: v.Get("after"), Limit: defaultPage, Consistent: v.Has("consistent"),
	}
	if s := v.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxPage {
			return q, badQuery("limit", s, "a number from 1 to 10000")
		}
		q.Limit = n
	}
	switch q.State {
	case "", mbox.Active.String(), mbox.Reserved.String():
	default:
		return q, badQuery("state", q.State, "active or reserved")
	}
	return q, nil
}

func (h handler) mailboxes(ctx context.Context, r *http.Request) (any, error) {
	q, err := parseMailboxQuery(r.URL.Query())
	if err != nil {
		return nil, err
	}
	if q.Consistent {
		if _, err := h.node.Barrier(ctx); err != nil {
			return nil, err
		}
	}
	return list(h.node.View(), q), nil
}

func list(v mbox.View, q MailboxQuery) MailboxPage {
	page := MailboxPage{Index: v.Index(), Mailboxes: []Mailbox{}}
	match := q.matcher()
	from := mbox.Name(q.Prefix)
	if q.After != "" && mbox.OrderDB.Compare(mbox.Name(q.After), from) > 0 {
		from = mbox.Name(q.After)
	}
	scanned, last := 0, mbox.Name("")
	v.Ascend(from, func(e mbox.Entry) bool {
		if len(page.Mailboxes) == q.Limit || scanned == maxScan {
			page.Next = string(last)
			return false
		}
		scanned++
		last = e.Name
		if !strings.HasPrefix(string(e.Name), q.Prefix) {
			return false
		}
		if string(e.Name) != q.After && match(e) {
			page.Mailboxes = append(page.Mailboxes, MailboxOf(e))
		}
		return true
	})
	return page
}

// matcher decides on records by everything but their place in the list.
func (q MailboxQuery) matcher() func(mbox.Entry) bool {
	named := func(mbox.Entry) bool { return true }
	if q.Pattern != "" {
		p := mbox.CompilePattern("", q.Pattern, '.')
		named = func(e mbox.Entry) bool { return p.Match(mbox.Extern(e.Name)) }
	}
	return func(e mbox.Entry) bool {
		return named(e) && (q.Server == "" || string(e.Location.Server()) == q.Server) && (q.State == "" || e.State.String() == q.State)
	}
}

// MailboxOf describes a record.
func MailboxOf(e mbox.Entry) Mailbox {
	return Mailbox{
		Name: string(e.Name), Server: string(e.Location.Server()), Location: string(e.Location), ACL: string(e.ACL),
		State: e.State.String(), Transfer: e.Transfer, Index: e.Index,
	}
}

func (h handler) mailbox(ctx context.Context, r *http.Request) (any, error) {
	name := r.PathValue("name")
	if r.URL.Query().Has("consistent") {
		if _, err := h.node.Barrier(ctx); err != nil {
			return nil, err
		}
	}
	e, ok := h.node.View().Get(mbox.Name(name))
	if !ok {
		return nil, &Error{Code: http.StatusNotFound, Message: "no mailbox " + strconv.Quote(name),
			Hint: "names are internal: user.jane, not user/jane; list them with a prefix"}
	}
	return MailboxOf(e), nil
}
