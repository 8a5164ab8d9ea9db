package lmtp

import "sync"

// answers are the final replies to one message. The client gets them in the order of its recipients (RFC 2033
// section 4.2), each as soon as those before it are known, whichever backend they come from.
type answers struct {
	write func([]byte) error // to the client

	mu      sync.Mutex
	known   []result // by recipient
	next    int      // the first that has not been handed out
	writing bool     // somebody is at it, who will also take what becomes known meanwhile
	gone    bool     // the client
}

// result is the final word on one recipient.
type result struct {
	rcpt  *recipient
	reply reply
}

// note keeps the final word on a recipient.
func (a *answers) note(rc *recipient, rep reply) {
	a.mu.Lock()
	a.known[rc.index] = result{rc, rep}
	a.mu.Unlock()
}

// tell writes what may be written, all in one piece. A client that is gone changes nothing.
func (a *answers) tell() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for !a.writing && !a.gone {
		var out []byte
		for ; a.next < len(a.known) && a.known[a.next].rcpt != nil; a.next++ {
			out = a.known[a.next].reply.appendTo(out)
		}
		if len(out) == 0 {
			return
		}
		a.writing = true
		a.mu.Unlock()
		err := a.write(out)
		a.mu.Lock()
		a.writing, a.gone = false, err != nil
	}
}
