package admin

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

func health(f func(*http.Request) (Health, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h, err := f(r)
		if err != nil {
			writeError(w, err)
			return
		}
		code := http.StatusOK
		if !h.OK {
			code = http.StatusServiceUnavailable
		}
		w.Header().Set(healthHeader, "1")
		writeJSON(w, code, h)
	}
}

func (h handler) ready(r *http.Request) (Health, error) {
	var q ReadyQuery
	values := r.URL.Query()
	q.Leader = values.Has("leader")
	if s := values.Get("max_lag"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return Health{}, badQuery("max_lag", s, "a number of entries")
		}
		q.MaxLag = n
	}
	if s := values.Get("barrier"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 || d > requestLimit {
			return Health{}, badQuery("barrier", s, "a duration up to 30s, such as 1s")
		}
		q.Barrier = d
	}
	return h.node.Ready(r.Context(), q), nil
}

func badQuery(key, value, want string) error {
	return &Error{Code: http.StatusBadRequest, Message: fmt.Sprintf("%s=%q: want %s", key, value, want)}
}

// Add notes a condition; a health is good while all of them hold.
func (h *Health) Add(name string, ok bool, detail string) {
	if len(h.Checks) == 0 {
		h.OK = true
	}
	h.Checks = append(h.Checks, Check{name, ok, detail})
	h.OK = h.OK && ok
}
