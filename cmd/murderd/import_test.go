package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"murder/internal/config"
)

func TestConfigImport(t *testing.T) {
	dir := t.TempDir()
	imapd, to, secrets := filepath.Join(dir, "imapd.conf"), filepath.Join(dir, "murderd.toml"), filepath.Join(dir, "secrets")
	os.WriteFile(imapd, []byte("servername: fe1.example.org\nproxy_authname: murder\nproxy_password: sesame\nallowplaintext: yes\nsasl_pwcheck_method: saslauthd\nxyz: 1\n"), 0o600)
	services := filepath.Join(dir, "cyrus.conf")
	os.WriteFile(services, []byte("SERVICES {\n  imap cmd=\"proxyd\" listen=\"1143\"\n}\n"), 0o600)
	var notes strings.Builder
	root := newRoot()
	root.SetErr(&notes)
	args := []string{"config", "import", "--imapd-conf", imapd, "--cyrus-conf", services, "--secrets", secrets, "--write", to}
	root.SetArgs(args)
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(notes.String(), "imapd.conf:6: xyz: 1: no counterpart here") {
		t.Error(notes.String())
	}
	c, err := config.Load(to)
	if err != nil {
		data, _ := os.ReadFile(to)
		t.Fatalf("%v\n%s", err, data)
	}
	if data, _ := os.ReadFile(c.Backends.Default.PasswordFile); string(data) != "sesame\n" || c.IMAP.Listen[0] != ":1143" {
		t.Errorf("%q %v", data, c.IMAP.Listen)
	}
	root.SetArgs(args)
	if err := root.Execute(); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("an existing file was replaced: %v", err)
	}
}
