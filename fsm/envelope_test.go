package fsm

import (
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"murder/internal/mbox"
)

var update = flag.Bool("update", false, "write the fixtures of commands that have none yet")

// samples has every command with every field set.
var samples = map[string]Command{
	"mailbox-write": MailboxWrite{At: 1700000000, Write: mbox.Write{Kind: mbox.Activate, Name: "ex.org!user.u^v.Sent & more",
		Location: "a.example!p1", ACL: "u.v@ex.org\tlrs\t-anyone\tp\t", IfIndex: 77,
		By: mbox.Session{ID: "c1-9f-3", Identity: "be-a", Peer: "192.0.2.1", Servers: []mbox.Server{"a.example", "a2.example"},
			Flags: mbox.Sync | mbox.Takeover}}},
	"empty":               Empty{},
	"new-term":            NewTerm{Term: 7, Leader: "c1"},
	"tick":                Tick{At: 1700000000},
	"checkpoint":          Checkpoint{Index: 300, Digest: Digest{1, 2, 3, 15: 16}},
	"register-node":       RegisterNode{Node{ID: "f1", Role: RoleFrontend, State: NodeActive, Address: "192.0.2.7:7401", Services: map[string]string{"http": "192.0.2.7:7403", "mupdate": "192.0.2.7:3905"}, Attributes: map[string]string{"zone": "b"}, DurableLog: true, MinCluster: 1, MaxCluster: 2, BinaryVersion: "1.0.0", Index: 9}},
	"set-node-state":      SetNodeState{ID: "f1", State: NodeDraining},
	"remove-node":         RemoveNode{ID: "f1"},
	"register-proposer":   RegisterProposer{NodeID: "f1", Nonce: "9f3c"},
	"set-setting":         SetSetting{Key: "epoch", Value: "2", IfIndex: IfAbsent},
	"set-cluster-version": SetClusterVersion{Version: 2},
	"put-token":           PutToken{Token: Token{ID: "t1", SecretHash: [32]byte{1, 31: 2}, Role: RoleCoordinator, UsesLeft: 3, ExpiresUnix: 1700003600, UsedBy: []string{"f1"}}, Now: 1700000000},
	"use-token":           UseToken{ID: "t1", SecretHash: [32]byte{1, 31: 2}, Role: RoleCoordinator, NodeID: "c2", Now: 1700000001},
	"revoke-token":        RevokeToken{ID: "t1"},
	"set-node-attribute":  SetNodeAttribute{ID: "c1", Key: "no-vote", Value: "1"},
	"resolve":             Resolve{What: RegisterConflicts, Name: "user.u", Claimant: "b.example", Identity: "op", At: 1700000000},
}

// The octets of every command of every release must be read for ever.
func TestFixtures(t *testing.T) {
	if len(samples) != len(commands) {
		t.Errorf("%d samples of %d commands", len(samples), len(commands))
	}
	for name, command := range samples {
		path := filepath.Join("testdata", "v1", name+".hex")
		e := Envelope{Proposer: 3, Incarnation: 2, Sequence: 1000, LowWater: 900, Command: command}
		if _, err := os.Stat(path); err != nil && *update {
			if err := os.WriteFile(path, []byte(hex.EncodeToString(AppendEnvelope(nil, e))+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		got, rest, err := DecodeEnvelope(raw)
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(got, e) {
			t.Errorf("%s: decoded %+v, %d octets left, %v", name, got, len(rest), err)
		}
		if again := AppendEnvelope(nil, e); hex.EncodeToString(again) != hex.EncodeToString(raw) {
			t.Errorf("%s: is written in another way now: %x", name, again)
		}
	}
}

// A newer writer may have added fields at the end.
func TestLongerBody(t *testing.T) {
	for name, command := range samples {
		body := append(appendBody(nil, command), "more"...)
		got, ok := readBody(command.kind(), body, new(mbox.Session))
		if !ok || !reflect.DeepEqual(got, command) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestApplyErrors(t *testing.T) {
	entry := func() []byte {
		return AppendBatch(nil, 5, []Envelope{{Command: samples["mailbox-write"]}, {Command: NewTerm{Term: 7, Leader: "c1"}}})
	}
	forged := func(k kind, version uint64, flags byte) []byte {
		commands[k] = commandInfo{version, 1, flags&flagIgnorable != 0}
		defer delete(commands, k)
		return AppendBatch(nil, 5, []Envelope{{Proposer: 1, Incarnation: 1, Sequence: 1, Command: forgedCommand{k}}})
	}
	var corruptErr *CorruptError
	var unknownErr *UnknownCommandError
	for i := range entry() {
		bad := entry()
		bad[i] ^= 0x10
		m := New()
		if _, err := m.Apply(9, bad); !errors.As(err, &corruptErr) && !errors.As(err, &unknownErr) {
			t.Errorf("octet %d changed: %v", i, err)
		} else if m.Index() != 0 || m.Digest() != New().Digest() {
			t.Errorf("octet %d changed: the machine is not as before", i)
		}
		if _, err := m.Apply(9, entry()[:i]); !errors.As(err, &corruptErr) || corruptErr.Index != 9 {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	if _, err := New().Apply(9, append(entry(), 0)); !errors.As(err, &corruptErr) {
		t.Errorf("something at the end: %v", err)
	}
	if _, err := New().Apply(9, forged(200, 1, 0)); !errors.As(err, &unknownErr) || unknownErr.Type != 200 || unknownErr.Index != 9 {
		t.Errorf("unknown command: %v", err)
	}
	m := New()
	if applied, err := m.Apply(9, forged(200, 1, flagIgnorable)); err != nil || len(applied.Results) != 1 || m.Index() != 9 {
		t.Errorf("unknown command that may be skipped: %+v, %v", applied, err)
	}
	if _, _, err := DecodeEnvelope(AppendEnvelope(nil, Envelope{Command: Empty{}})[:5]); !errors.As(err, &corruptErr) {
		t.Errorf("short envelope: %v", err)
	}
	if _, err := m.Apply(9, entry()); !errors.As(err, &corruptErr) {
		t.Errorf("an index twice: %v", err)
	}

	strange := AppendBatch(nil, 5, []Envelope{{Command: MailboxWrite{Write: mbox.Write{Kind: mbox.Remove + 1, Name: "x"}}}})
	if _, err := New().Apply(9, strange); !errors.As(err, &corruptErr) {
		t.Errorf("unknown kind of write: %v", err)
	}

	info := commands[kindTick]
	commands[kindTick] = commandInfo{2, 1, false}
	newer := AppendBatch(nil, 5, []Envelope{{Command: Tick{}}})
	commands[kindTick] = info
	if _, err := New().Apply(9, newer); !errors.As(err, &unknownErr) || unknownErr.Version != 2 {
		t.Errorf("newer version: %v", err)
	}
}

type forgedCommand struct{ k kind }

func (c forgedCommand) kind() kind { return c.k }

func TestGate(t *testing.T) {
	info := commands[kindTick]
	defer func() { commands[kindTick] = info }()
	commands[kindTick] = commandInfo{1, 2, false}
	r := newRig(t)
	r.refused(Tick{}, RefusedNotYet)
	if r.m.View().Enabled(Tick{}) {
		t.Error("enabled")
	}
	r.refused(SetClusterVersion{2}, NotRefused)
	r.refused(Tick{}, NotRefused)
	if !r.m.View().Enabled(Tick{}) {
		t.Error("not enabled")
	}
}

func FuzzApply(f *testing.F) {
	for _, c := range samples {
		f.Add(AppendBatch(nil, 5, []Envelope{{Proposer: 1, Incarnation: 1, Sequence: 1, Command: c}}))
	}
	f.Add(AppendBatch(nil, 1<<63, nil))
	f.Fuzz(func(t *testing.T, entry []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := decodeBatch(entry, new(mbox.Session))
		runtime.ReadMemStats(&after)
		if spent := after.TotalAlloc - before.TotalAlloc; spent > 64<<10+64*uint64(len(entry)) {
			t.Errorf("%d octets made us allocate %d", len(entry), spent)
		}
		m := New()
		_, applyErr := m.Apply(1, entry)
		if (err == nil) != (applyErr == nil) {
			t.Errorf("decode: %v, apply: %v", err, applyErr)
		}
		if err == nil {
			restored(t, m)
		}
	})
}

// Bodies are fuzzed apart, since few inputs get past the checksum.
func FuzzBody(f *testing.F) {
	for _, c := range samples {
		f.Add(byte(c.kind()), appendBody(nil, c))
	}
	f.Fuzz(func(t *testing.T, k byte, body []byte) {
		if _, known := commands[kind(k)]; !known {
			return
		}
		c, ok := readBody(kind(k), body, new(mbox.Session))
		if !ok {
			return
		}
		again, ok := readBody(kind(k), appendBody(nil, c), new(mbox.Session))
		if !ok || !reflect.DeepEqual(c, again) {
			t.Errorf("%+v is read again as %+v", c, again)
		}
		m := New()
		if _, err := m.Apply(1, AppendBatch(nil, 5, []Envelope{{Command: c}})); err != nil && len(body) < MaxEntrySize/2 {
			t.Fatal(err)
		}
		restored(t, m)
	})
}
