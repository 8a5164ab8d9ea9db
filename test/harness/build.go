package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var build struct {
	once sync.Once
	dir  string
	err  error
}

// Main runs a package's tests and removes what the harness has built for them.
func Main(m *testing.M) { Exit(m.Run()) }

// Exit is the end of a TestMain that has more to do than Main.
func Exit(code int) {
	if build.dir != "" && os.Getenv("MURDER_BIN") == "" {
		os.RemoveAll(build.dir)
	}
	os.Exit(code)
}

// Build builds the programs into a directory of the test, with a version and further build tags.
func Build(t testing.TB, version string, tags ...string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-tags", strings.Join(append([]string{"hashicorpmetrics"}, tags...), ","),
		"-ldflags", "-X main.version="+version, "-o", dir, "murder/cmd/murderd", "murder/cmd/murderctl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building version %s: %v\n%s", version, err, out)
	}
	return dir
}

// Binaries returns the directory with murderd and murderctl: $MURDER_BIN, or a fresh build, made at
// the first call.
func Binaries() (string, error) {
	build.once.Do(func() {
		if build.dir = os.Getenv("MURDER_BIN"); build.dir != "" {
			build.dir, build.err = filepath.Abs(build.dir)
			return
		}
		if build.dir, build.err = os.MkdirTemp("", "murder"); build.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", build.dir, "murder/cmd/murderd", "murder/cmd/murderctl")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("building the programs: %w\n%s", err, out)
		}
	})
	return build.dir, build.err
}
