package admin

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"murder/internal/mbox"
)

// mapNode is a node of which only the map counts.
type mapNode struct {
	Node
	view func() mbox.View
}

func (n mapNode) View() mbox.View { return n.view() }

// names is a map of names.
type names []mbox.Name

func (v names) Index() uint64                         { return 1 }
func (v names) Len() int                              { return len(v) }
func (v names) Get(mbox.Name) (e mbox.Entry, ok bool) { return }
func (v names) Ascend(from mbox.Name, yield func(mbox.Entry) bool) {
	for _, n := range v {
		if n >= from && !yield(mbox.Entry{Name: n, Location: "b1!p", State: mbox.Active}) {
			return
		}
	}
}

// A list that takes long goes on from a fresh copy, and tells every name once.
func TestListFromFreshCopies(t *testing.T) {
	const count = 3000
	all := make(names, count)
	for i := range all {
		all[i] = mbox.Name(fmt.Sprintf("user.u%05d", i))
	}
	views := 0
	h := handler{lists: make(chan struct{}, 1), node: mapNode{view: func() mbox.View {
		if views++; views == 1 {
			return all
		}
		return all[:count-10] // the last ones have gone meanwhile
	}}}
	w := httptest.NewRecorder()
	h.mailboxStream(w, httptest.NewRequest(http.MethodGet, "/v1/list?prefix=user.", nil))
	var last string
	got := 0
	for dec := json.NewDecoder(w.Body); ; got++ {
		var m Mailbox
		if err := dec.Decode(&m); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if m.Name <= last {
			t.Fatalf("%s after %s", m.Name, last)
		}
		last = m.Name
	}
	if views < 3 || got != count-10 {
		t.Errorf("%d names from %d copies", got, views)
	}
}

// stalledWriter is a client that does not read.
type stalledWriter struct {
	*httptest.ResponseRecorder
	arrived, stall chan struct{}
}

func (w stalledWriter) Write(p []byte) (int, error) {
	w.arrived <- struct{}{}
	<-w.stall
	return w.ResponseRecorder.Write(p)
}

// So many lists hold a copy, and no more.
func TestListsAreBounded(t *testing.T) {
	api := Handler(mapNode{view: func() mbox.View { return names{"user.a"} }})
	arrived, stall := make(chan struct{}), make(chan struct{})
	list := func(w http.ResponseWriter) {
		api.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/list", nil))
	}
	var wg sync.WaitGroup
	for range maxLists {
		wg.Go(func() { list(stalledWriter{httptest.NewRecorder(), arrived, stall}) })
		<-arrived
	}
	w := httptest.NewRecorder()
	if list(w); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "16 lists are being sent") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	close(stall)
	wg.Wait()
	w = httptest.NewRecorder()
	if list(w); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "user.a") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
