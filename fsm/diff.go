package fsm

import "murder/internal/mbox"

// Diff yields what a reader of old has to do to have new, in the order of the map, until yield
// returns false. The two may come from different machines. A record that differs only in its Index
// is not a change.
func Diff(old, new *View, yield func(mbox.Change) bool) {
	a, b := old.mailboxes.Iter(), new.mailboxes.Iter()
	moreA, moreB := a.First(), b.First()
	for moreA || moreB {
		order := 0
		switch {
		case !moreB:
			order = -1
		case !moreA:
			order = 1
		default:
			order = mbox.OrderDB.Compare(a.Item().name, b.Item().name)
		}
		var c mbox.Change
		changed := true
		switch {
		case order < 0:
			gone := a.Item()
			c = mbox.Change{Entry: mbox.Entry{Name: gone.name, Index: new.index}, Old: gone.location}
		case order > 0:
			c = mbox.Change{Entry: b.Item().entry()}
		default:
			was, is := a.Item(), b.Item()
			if changed = was.shape != is.shape; changed {
				c = mbox.Change{Entry: is.entry(), Old: was.location}
			}
		}
		if changed && !yield(c) {
			return
		}
		if order <= 0 {
			moreA = a.Next()
		}
		if order >= 0 {
			moreB = b.Next()
		}
	}
}
