package cyrus

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// binDir is where Cyrus's programs are: Debian's, or those of another release that MURDER_CYRUS names. One
// builds them with all of --bindir, --sbindir and --libexecdir at that directory, and --enable-murder.
var binDir = cmp.Or(os.Getenv("MURDER_CYRUS"), "/usr/lib/cyrus/bin")

// installLine is what brings the programs that the stories use.
const installLine = "apt-get install --no-install-recommends cyrus-imapd cyrus-murder cyrus-pop3d cyrus-clients cyrus-admin " +
	"sasl2-bin libsasl2-modules libsasl2-modules-db swaks curl python3 util-linux"

// Missing says what keeps the rig, and the named further programs, from running here; empty if nothing.
func Missing(programs ...string) []string {
	if runtime.GOOS != "linux" {
		return []string{"Linux (namespaces, many loopback addresses); this is " + runtime.GOOS}
	}
	var missing, absent []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root (ports below 1024, private namespaces, the user cyrus)")
	}
	for _, p := range []string{"master", "imapd", "lmtpd", "pop3d", "mupdate", "ctl_mboxlist", "ctl_cyrusdb"} {
		if _, err := os.Stat(filepath.Join(binDir, p)); err != nil {
			absent = append(absent, filepath.Join(binDir, p))
		}
	}
	for _, p := range append([]string{"sh", "mount", "setpriv", "saslpasswd2"}, programs...) {
		if _, err := exec.LookPath(p); err != nil {
			absent = append(absent, p)
		}
	}
	if _, err := user.Lookup("cyrus"); errors.As(err, new(user.UnknownUserError)) {
		absent = append(absent, "the user cyrus")
	}
	if len(absent) > 0 {
		missing = append(missing, fmt.Sprintf("%s (try: %s)", strings.Join(absent, ", "), installLine))
	}
	if len(missing) == 0 {
		if err := tryNamespaces(); err != nil {
			missing = append(missing, fmt.Sprintf("mount and process namespaces: %v", err))
		}
	}
	return missing
}

// Require skips the test where the rig cannot run.
func Require(t testing.TB, programs ...string) {
	t.Helper()
	missing := Missing(programs...)
	if len(missing) == 0 {
		return
	}
	Lacking(t, strings.Join(missing, "; "))
}

// Lacking skips the test for want of something, or fails it when MURDER_REQUIRE_CYRUS says that
// nothing may be wanting.
func Lacking(t testing.TB, what string) {
	t.Helper()
	text := "stories with real servers need: " + what
	if slices.Contains([]string{"", "0", "no", "false"}, os.Getenv("MURDER_REQUIRE_CYRUS")) {
		t.Skip(text)
	}
	t.Fatal(text)
}
