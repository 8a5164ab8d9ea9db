package imap

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
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

// A message may take its time to come, from the client or from another server, as long as something comes.
func TestSlowUpload(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("x APPEND INBOX {4}")
		d.expect("+ ...")
		for _, octet := range "slow" {
			d.raw(string(octet))
			time.Sleep(9 * time.Minute)
		}
		d.send("")
		d.expect("x OK ...")
	})
}

func TestSlowCopy(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("s SELECT INBOX")
		d.until("s")
		r.stubs["b1"].fail("UID_FETCH", `* 1 FETCH (UID 1 BODY[] {4}\nsLATERlLATERoLATERwLATER)\nTAG OK done`)
		takes(t, 36*time.Minute, 36*time.Minute, "the copy", func() {
			d.send(`x COPY 1 "Shared Folders/shared"`)
			d.expect("x OK ...")
		})
		if r.stubs["b2"].bodies("shared")["slow"] != 1 {
			t.Error("not copied")
		}
	})
}

// A client that reads slowly, but reads, gets all of a message from a fast backend.
func TestSlowDownload(t *testing.T) {
	r := newRig(t, func(c *Config) { c.TLS = selfSigned(t); c.Limits.BackendStall = 2 * time.Second })
	d := r.open("A")
	d.expect("* OK ...")
	d.send("t STARTTLS")
	d.expect("t OK ...")
	d.secure()
	d.patience = time.Minute
	d.send("l LOGIN alice pw")
	d.expect("l OK ...")
	d.send("s SELECT INBOX")
	d.until("s")
	r.stubs["b1"].fail("FETCH", "gush")
	d.send("x FETCH 1 BODY[]")
	d.expect("* 1 FETCH ...")
	d.conn.SetDeadline(time.Now().Add(time.Minute))
	for range 50 {
		time.Sleep(80 * time.Millisecond) // in all twice what a silent backend has
		if _, err := io.CopyN(io.Discard, d.r, gushSize/50); err != nil {
			t.Fatal(err)
		}
	}
	d.expect(")")
	d.expect("x OK done")
}

// Who is told to go gets the answers to what has been asked before.
func TestDrainLetsAnswersCome(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("s SELECT INBOX")
		d.until("s")
		r.stubs["b1"].fail("FETCH", `* 1 FETCH (FLAGS ())\nLATER* 2 FETCH (FLAGS ())\nTAG OK done`)
		d.send("x FETCH 1:2 FLAGS")
		d.expect("* 1 FETCH ...")
		done := make(chan error)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			defer cancel()
			done <- r.srv.Shutdown(ctx)
		}()
		d.expect("* 2 FETCH ...")
		d.expect("x OK done")
		d.expect("* BYE [UNAVAILABLE]...")
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// An answer that does not come does not hold up the end of a drain.
func TestDrainDoesNotWaitForEver(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("s SELECT INBOX")
		d.until("s")
		r.stubs["b1"].fail("FETCH", `* 1 FETCH (FLAGS ())\nTHEN-HANG`)
		d.send("x FETCH 1 BODY[]")
		d.expect("* 1 FETCH ...")
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		takes(t, 10*time.Second, 11*time.Second, "the drain", func() {
			if err := r.srv.Shutdown(ctx); err == nil {
				t.Error("nobody was cut off")
			}
		})
	})
}

// A client that waits for an answer is not idle, and has its time from the end of the answer on.
func TestLongAnswerIsNotIdling(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("s SELECT INBOX")
		d.until("s")
		r.stubs["b1"].fail("FETCH", strings.Repeat(`* 1 FETCH (FLAGS ())\nLATER`, 4)+`TAG OK done`)
		d.send("x FETCH 1 BODY[]")
		for range 4 {
			d.expect("* 1 FETCH ...")
		}
		d.expect("x OK done")
		takes(t, 30*time.Minute, 30*time.Minute+time.Second, "being idle", func() { d.expect("* BYE Idle for too long") })
	})
}

// A backend that refuses to tell its special-use flags has not said that there are none.
func TestSpecialUseRefused(t *testing.T) {
	r := newRig(t)
	d := r.login("A", "alice")
	r.stubs["b1"].fail("LIST", "TAG NO [SERVERBUG] not now")
	d.send(`x LIST (SPECIAL-USE) "" "*"`)
	if got := d.until("x"); !strings.HasPrefix(got[len(got)-1], "x NO [UNAVAILABLE]") {
		t.Errorf("%q", got)
	}
	r.stubs["b1"].forget()
	d.send(`y LIST (SPECIAL-USE) "" "*"`)
	d.expect("y OK ...")
	if !r.stubs["b1"].saw("LIST (SPECIAL-USE)") {
		t.Error("not asked again")
	}
}

// A backend that neither agrees to IDLE nor refuses is given up when the client has done.
func TestIdleNotAgreedTo(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("s SELECT INBOX")
		d.until("s")
		r.stubs["b1"].fail("IDLE", "hang")
		d.send("i IDLE")
		d.expect("+ idling")
		takes(t, 30*time.Second, 31*time.Second, "leaving", func() {
			d.send("DONE")
			d.expect("* BYE [UNAVAILABLE]...")
		})
	})
}

// A backend that has ended IDLE by itself is not told that the client has done: that would be a command to it.
func TestIdleEndedByTheBackend(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("s SELECT INBOX")
		d.until("s")
		for range 20 {
			r.stubs["b1"].fail("IDLE", `+ idling\nTAG OK enough`)
			d.send("i IDLE")
			d.expect("+ idling")
			synctest.Wait()
			d.send("DONE")
			d.expect("i OK ...")
			d.send("n NOOP")
			d.expect("n OK ...")
		}
	})
}

// A session that waits for a backend and cannot be cut does not keep the server from ending.
func TestShutdownReturns(t *testing.T) {
	inVirtualTime(t, rigOptions{}, func(t *testing.T, r *rig) {
		d := r.login("A", "alice")
		d.send("s SELECT INBOX")
		d.until("s")
		r.stubs["b1"].fail("FETCH", `* 1 FETCH (FLAGS ())\nTHEN-HANG`)
		d.send("x FETCH 1 FLAGS")
		d.expect("* 1 FETCH ...")
		d.send("y STATUS INBOX (MESSAGES)")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		takes(t, 10*time.Second, 10*time.Second+byeStall, "the shutdown", func() { r.srv.Shutdown(ctx) })
		r.stubs["b1"].stop()
	})
}
