package logfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"murder/fsm"
	"murder/internal/mbox"
)

// logOf makes a data directory with a log.
func logOf(t *testing.T, entries ...*raft.Log) (dir string, store *raftboltdb.BoltStore) {
	t.Helper()
	dir = t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "raft"), 0o700); err != nil {
		t.Fatal(err)
	}
	store, err := raftboltdb.NewBoltStore(Path(dir))
	if err == nil {
		err = store.StoreLogs(entries)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return dir, store
}

func command(index uint64, cmds ...fsm.Command) *raft.Log {
	var list []fsm.Envelope
	for _, c := range cmds {
		list = append(list, fsm.Envelope{Command: c})
	}
	return &raft.Log{Index: index, Term: 2, Type: raft.LogCommand, Data: fsm.AppendBatch(nil, 0, list)}
}

func activate(name mbox.Name) fsm.Command {
	return fsm.MailboxWrite{Write: mbox.Write{Kind: mbox.Activate, Name: name, Location: "b1!p", By: mbox.Session{Identity: "cyrus"}}}
}

func TestEach(t *testing.T) {
	configuration := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "c1", Address: "h:1"}}})
	bad := command(4, activate("user.b"))
	bad.Data[len(bad.Data)-6] ^= 1
	dir, store := logOf(t,
		&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: configuration},
		&raft.Log{Index: 2, Term: 2, Type: raft.LogNoop},
		command(3, activate("user.a"), fsm.SetSetting{Key: "k", Value: "secret"}),
		bad,
		&raft.Log{Index: 5, Term: 1, Type: raft.LogNoop},
		command(7, fsm.NewTerm{}),
	)
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "stop murderd first") {
		t.Fatalf("opened while another has it: %v", err)
	}
	store.Close()
	f, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []Entry
	f.Each(0, func(e Entry) bool { got = append(got, e); return true })
	if len(got) != 7 || f.First != 1 || f.Last != 7 {
		t.Fatalf("%d entries from %d to %d", len(got), f.First, f.Last)
	}
	for i, want := range []string{"", "", "", "checksum", "of term 1, after one of term 2", missing, ""} {
		if e := got[i]; (want == "") != (e.Damage == "") || !strings.Contains(e.Damage, want) {
			t.Errorf("entry %d: %q, want %q", e.Index, e.Damage, want)
		}
	}
	if c := got[2].Commands; len(c) != 2 || c[0] != (Command{"ACTIVATE", "user.a", "b1!p by cyrus"}) || c[1] != (Command{Type: "set-setting", Name: "k"}) {
		t.Errorf("%+v", c)
	}
	if c := got[0].Commands; len(c) != 1 || c[0] != (Command{"Voter", "c1", "h:1"}) {
		t.Errorf("%+v", c)
	}
	if c := got[6].Commands; len(c) != 1 || c[0].Type != "new-term" {
		t.Errorf("%+v", c)
	}
	// What is missing behind a snapshot is no damage.
	meta := filepath.Join(dir, "raft", "snapshots", "2-6-1", "meta.json")
	if err := os.MkdirAll(filepath.Dir(meta), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(meta, []byte(`{"Index":6}`), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Snapshot = newestSnapshot(dir)
	count := 0
	f.Each(6, func(e Entry) bool {
		if count++; e.Index != 7 || e.Damage != "" {
			t.Errorf("%+v", e)
		}
		return true
	})
	if count != 1 {
		t.Errorf("%d entries from 6 on", count)
	}
}

// A file that is cut short is damage, not the end of the program.
func TestCutShort(t *testing.T) {
	var entries []*raft.Log
	for i := range uint64(2000) {
		entries = append(entries, command(i+1, activate("user.a")))
	}
	dir, store := logOf(t, entries...)
	store.Close()
	info, err := os.Stat(Path(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(Path(dir), info.Size()/2); err != nil {
		t.Fatal(err)
	}
	f, err := Open(dir)
	if err != nil {
		return // as good
	}
	defer f.Close()
	damaged := f.Last == 0
	f.Each(0, func(e Entry) bool { damaged = damaged || e.Damage != ""; return true })
	if _, err := Compact(dir); err == nil || !damaged {
		t.Errorf("half a file is whole: %v", err)
	}
}

func TestCompact(t *testing.T) {
	var entries []*raft.Log
	for i := range uint64(3000) {
		entries = append(entries, command(i+1, activate("user.a")))
	}
	dir, store := logOf(t, entries...)
	if _, err := Compact(dir); err == nil || !strings.Contains(err.Error(), "stop murderd first") {
		t.Errorf("compacted while another has it: %v", err)
	}
	if err := store.DeleteRange(1, 2990); err != nil {
		t.Fatal(err)
	}
	if err := store.SetUint64([]byte("CurrentTerm"), 2); err != nil {
		t.Fatal(err)
	}
	store.Close()
	s, err := Compact(dir)
	if err != nil || s.After*4 > s.Before {
		t.Errorf("%+v %v", s, err)
	}
	again, err := raftboltdb.NewBoltStore(Path(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	first, _ := again.FirstIndex()
	last, _ := again.LastIndex()
	if term, err := again.GetUint64([]byte("CurrentTerm")); first != 2991 || last != 3000 || term != 2 || err != nil {
		t.Errorf("from %d to %d in term %d, %v", first, last, term, err)
	}
	if _, err := Compact(t.TempDir()); err == nil || !strings.Contains(err.Error(), "only the data directory of a coordinator") {
		t.Error(err)
	}
}

// Of two that compact at once one does; the other is told, or comes later and finds little to do.
func TestCompactTwice(t *testing.T) {
	var entries []*raft.Log
	for i := range uint64(3000) {
		entries = append(entries, command(i+1, activate("user.a")))
	}
	dir, store := logOf(t, entries...)
	if err := store.DeleteRange(1, 2990); err != nil {
		t.Fatal(err)
	}
	store.Close()
	const at = 4 // once
	errs := make(chan error, at)
	for range at {
		go func() { _, err := Compact(dir); errs <- err }()
	}
	done := 0
	for range at {
		switch err := <-errs; {
		case err == nil:
			done++
		case !strings.Contains(err.Error(), "another process uses it") && !strings.Contains(err.Error(), "was replaced meanwhile"):
			t.Errorf("told %v", err)
		}
	}
	if done == 0 {
		t.Error("nobody has compacted it")
	}
	f, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.First != 2991 || f.Last != 3000 {
		t.Errorf("from %d to %d", f.First, f.Last)
	}
	if left, err := filepath.Glob(Path(dir) + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q %v", left, err)
	}
}

// Who has waited for the lock of a file that was replaced meanwhile does not put its copy over the new one.
func TestCompactReplaced(t *testing.T) {
	dir, store := logOf(t, command(1, activate("user.a")))
	store.Close()
	held, err := bbolt.Open(Path(dir), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() { _, err := Compact(dir); failed <- err }()
	awaitTwo(t, Path(dir))
	fresh, err := bbolt.Open(Path(dir)+".new", 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fresh.Close(), os.Rename(Path(dir)+".new", Path(dir)), held.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "was replaced meanwhile") {
		t.Errorf("compacted: %v", err)
	}
}

// awaitTwo waits until this process has a file open twice.
func awaitTwo(t *testing.T, path string) {
	t.Helper()
	const fds = "/proc/self/fd"
	for {
		list, err := os.ReadDir(fds)
		if err != nil {
			t.Skip("it is not known who waits for the file: ", err)
		}
		open := 0
		for _, fd := range list {
			if name, err := os.Readlink(filepath.Join(fds, fd.Name())); err == nil && name == path {
				open++
			}
		}
		if open >= 2 {
			return
		}
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("nobody waits")
		}
	}
}
