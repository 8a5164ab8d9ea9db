package imap

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
)

// A copy to another server that is broken off leaves nothing there: nothing of ours may take the place
// of the octets that are missing, however many they are.
func TestCopyBrokenOffStoresNothing(t *testing.T) {
	for missing := 8; missing < 32; missing++ {
		inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
			d := r.login("A", "alice")
			d.send("s SELECT INBOX")
			d.until("s")
			r.stubs["b1"].fail("UID_FETCH", fmt.Sprintf(`* 1 FETCH (UID 1 BODY[] {%d}\n%sTHEN-CLOSE`, 100+missing, strings.Repeat("x", 100)))
			d.send(`x COPY 1 "Shared Folders/shared"`)
			d.expect("x NO ...")
			synctest.Wait()
			for body := range r.stubs["b2"].bodies("shared") {
				if body != "s1" {
					t.Errorf("stored: %q", body)
				}
			}
		})
	}
}
