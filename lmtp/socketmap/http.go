package socketmap

import (
	"encoding/json"
	"net/http"

	"murder/lmtp"
)

// Recipient is the JSON answer about one address.
type Recipient struct {
	Found   bool   `json:"found"`
	User    string `json:"user,omitempty"`
	Mailbox string `json:"mailbox,omitempty"`
	State   string `json:"state,omitempty"` // active, reserved (created or moved at the moment)
	Backend string `json:"backend,omitempty"`
	Index   uint64 `json:"applied_index"`
	Fresh   bool   `json:"fresh"` // everything committed before the question was looked at
}

// Handler answers GET requests whose path value "addr" is an address: register it under
// "GET /v1/recipients/{addr}". 200 means found; 404 not found, which is certain unless the query says
// stale=ok; 503 that the map cannot be asked, or, if deferUnknown, that it does not have the recipient yet.
func Handler(r *lmtp.Resolver, deferUnknown bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		address, err := lmtp.ParseAddress(req.PathValue("addr"))
		if err != nil {
			respond(w, http.StatusNotFound, Recipient{Fresh: true})
			return
		}
		route, sure := r.Peek(address, "")
		if !sure && req.URL.Query().Get("stale") != "ok" {
			route = r.Resolve(req.Context(), address, "")
		}
		answer := Recipient{User: string(route.User), Mailbox: string(route.Name), Index: route.Index, Fresh: route.Fresh}
		if route.Status == lmtp.Unknown && deferUnknown {
			route.Status = lmtp.Unsure
		}
		switch route.Status {
		case lmtp.Found, lmtp.Moving, lmtp.Loop:
			answer.Found, answer.State, answer.Backend = true, route.State.String(), string(route.Server)
			respond(w, http.StatusOK, answer)
		case lmtp.Unknown, lmtp.NoPost:
			respond(w, http.StatusNotFound, answer)
		default:
			w.Header().Set("Retry-After", "2")
			respond(w, http.StatusServiceUnavailable, answer)
		}
	})
}

func respond(w http.ResponseWriter, status int, answer Recipient) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(answer)
}
