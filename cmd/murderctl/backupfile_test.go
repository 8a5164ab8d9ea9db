package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"murder/fsm"
	"murder/internal/mbox"
)

func TestBackupFiles(t *testing.T) {
	m := fsm.New()
	w := func(kind mbox.Kind, name, location, acl string) fsm.Envelope {
		return fsm.Envelope{Command: fsm.MailboxWrite{Write: mbox.Write{Kind: kind, Name: mbox.Name(name), Location: mbox.Location(location), ACL: mbox.ACL(acl)}}}
	}
	_, err := m.Apply(7, fsm.AppendBatch(nil, 0, []fsm.Envelope{
		{Command: fsm.SetSetting{Key: fsm.SettingClusterID, Value: "home"}},
		w(mbox.Activate, "user.b", "b1!p", "b\tlrs\tanyone\tl\t"), w(mbox.Activate, "user.a", "b2!q", ""), w(mbox.Reserve, "user.c", "b1!p", ""),
	}))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "x.snapshot")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Snapshot().WriteTo(f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"backup", "inspect", file, "-o", "plain"}, "cluster\thome\nindex\t7\n"},
		{[]string{"backup", "verify", file}, "the file is whole"},
		{[]string{"backup", "export", file, "--format", "ctl_mboxlist"},
			"user.a\t1 b2!q \nuser.b\t1 b1!p b\tlrs\tanyone\tl\t\nuser.c\t3 b1!p \n"},
		{[]string{"backup", "export", file, "--format", "jsonl"}, `{"name":"user.c","server":"b1","location":"b1!p","state":"reserved","index":7}`},
	} {
		if code, stdout, stderr := ctlRun(t, "", c.args...); code != 0 || !strings.Contains(stdout, c.want) {
			t.Errorf("%q: exit %d, %q %s", c.args, code, stdout, stderr)
		}
	}
	data, _ := os.ReadFile(file)
	node := answers(t, map[string]string{"GET /v1/backup": string(data)})
	dir := t.TempDir()
	for name, want := range map[string]string{"plain": "plain", "m-{index}.snapshot": "m-7.snapshot"} {
		code, stdout, stderr := ctlRun(t, "", "--addr", node, "backup", "save", filepath.Join(dir, name), "-o", "json")
		if code != 0 || !strings.Contains(stdout, `"file": "`+filepath.Join(dir, want)+`"`) || !strings.Contains(stdout, `"index": 7`) {
			t.Errorf("saving %s: exit %d, %s%s", name, code, stdout, stderr)
		}
		if code, _, stderr := ctlRun(t, "", "backup", "verify", filepath.Join(dir, want)); code != 0 {
			t.Errorf("%s: %s", want, stderr)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("files left: %v", left)
	}
	data[len(data)-9] ^= 1
	os.WriteFile(file, data, 0o600)
	if code, _, stderr := ctlRun(t, "", "backup", "verify", file); code != 1 {
		t.Errorf("a damaged file passes: %s", stderr)
	}
	if code, _, _ := ctlRun(t, "", "backup", "export", file, "--format", "xml"); code != 2 {
		t.Errorf("exit %d", code)
	}
}
