package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"murder/internal/config"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"murderd": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}

// The files that README shows can be used as they are, once the files they name exist.
func TestExamples(t *testing.T) {
	etc := t.TempDir()
	for _, name := range []string{"secrets/backend1", "secrets/backend2", "secrets/reader", "secrets/murder", "tls/cert.pem", "tls/key.pem", "tls/ca.pem", "users"} {
		path := filepath.Join(etc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob("../../deploy/examples/*.toml")
	if err != nil || len(files) < 2 {
		t.Fatalf("examples: %q, %v", files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := config.Parse([]byte(strings.ReplaceAll(string(data), "/etc/murder", etc)), filepath.Base(file)); err != nil {
			t.Error(err)
		}
	}
}
