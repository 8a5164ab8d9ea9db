//go:build cyrus

package cyrus

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// version is that of the installed Cyrus, as its master says it: "cyrus-imapd 3.6.1-Debian-3.6.1-4".
var version = sync.OnceValues(func() (v [2]int, err error) {
	out, err := exec.Command(filepath.Join(binDir, "master"), "-V").Output()
	if err != nil {
		return v, fmt.Errorf("asking Cyrus for its version: %w", err)
	}
	if _, err = fmt.Sscanf(string(out), "cyrus-imapd %d.%d", &v[0], &v[1]); err != nil {
		return v, fmt.Errorf("reading Cyrus's version %q: %w", out, err)
	}
	return v, nil
})

// atLeast reports whether the installed Cyrus is of this release, as 3, 10, or of a later one. It is for what is
// known to differ between them, and only for that.
func atLeast(t testing.TB, major, minor int) bool {
	t.Helper()
	v, err := version()
	if err != nil {
		t.Fatal(err)
	}
	return v[0] > major || v[0] == major && v[1] >= minor
}
