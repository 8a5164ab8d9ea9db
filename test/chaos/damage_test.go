package chaos

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"murder/test/harness"
)

// A coordinator whose files were changed while it was stopped ends at once with code 76 and the
// commands that bring it back; the others do not notice.
func TestDamagedFiles(t *testing.T) {
	long(t)
	r := newReport(t)
	c := harness.Start(t, harness.Options{})
	must(t, c.Kill("c2"))
	bin, err := harness.Binaries()
	must(t, err)
	var db string
	filepath.WalkDir(c.Dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "raft.db" && strings.Contains(path, "c2") {
			db = path
		}
		return nil
	})
	if db == "" {
		t.Fatal("no log of c2")
	}
	whole, err := os.ReadFile(db)
	must(t, err)
	for name, damaged := range map[string][]byte{
		"cut short":     whole[:len(whole)/2],
		"a changed bit": flipped(t, whole, "c2"),
		"zeros":         make([]byte, len(whole)),
	} {
		must(t, os.WriteFile(db, damaged, 0o600))
		r.fault("log damaged: " + name)
		cmd := exec.Command(filepath.Join(bin, "murderd"), "--config", c.Env("C2_CONFIG"))
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != 76 || !bytes.Contains(out, []byte("murderctl cluster join TOKEN")) {
			r.violation("%s: exit %d:\n%s", name, code, out)
		}
	}
	must(t, os.WriteFile(db, whole, 0o600))
	must(t, c.Start("c2"))
	c.AwaitEqual(t)
}

// flipped changes one bit of every place where a text is: at least one is in use.
func flipped(t *testing.T, file []byte, text string) []byte {
	t.Helper()
	b := bytes.Clone(file)
	if bytes.Count(b, []byte(text)) == 0 {
		t.Fatalf("%q is not in the log", text)
	}
	return bytes.ReplaceAll(b, []byte(text), []byte{text[0] ^ 1, text[1]})
}
