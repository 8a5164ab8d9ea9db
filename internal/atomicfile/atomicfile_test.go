package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	put := func(text string, fail error) error {
		_, err := Write(path, 0o640, func(w io.Writer) error {
			io.WriteString(w, text)
			return fail
		})
		return err
	}
	if err := put("one", nil); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if err := put("half", broken); !errors.Is(err, broken) {
		t.Error(err)
	}
	if data, _ := os.ReadFile(path); string(data) != "one" {
		t.Errorf("%q", data)
	}
	if info, _ := os.Stat(path); info.Mode() != 0o640 {
		t.Error(info.Mode())
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Error(left)
	}
	if _, err := Write(filepath.Join(dir, "none", "f"), 0o600, func(io.Writer) error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
