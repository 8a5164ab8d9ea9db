package limit

import "sync"

// Users counts what each user has at a time. A nil *Users, and a limit of 0, admit everybody. It is
// safe for concurrent use; its memory is bounded by what is admitted.
type Users struct {
	most   int
	mu     sync.Mutex
	counts map[string]int
}

// NewUsers returns a counter that admits most for each user, 0 for no limit.
func NewUsers(most int) *Users { return &Users{most: most, counts: make(map[string]int)} }

// Acquire admits one more for a user, or not. Release must be called once for each that was admitted.
func (u *Users) Acquire(user string) bool {
	if u == nil || u.most == 0 {
		return true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.counts[user] >= u.most {
		return false
	}
	u.counts[user]++
	return true
}

// Release takes back what Acquire admitted.
func (u *Users) Release(user string) {
	if u == nil || u.most == 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.counts[user]--; u.counts[user] <= 0 {
		delete(u.counts, user)
	}
}
