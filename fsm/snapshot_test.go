package fsm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"murder/internal/mbox"
)

// everything returns a machine with rows in every table.
func everything(t testing.TB) *rig {
	r := newRig(t)
	r.pass(5000)
	p := r.do(RegisterProposer{"f1", "n"})
	r.do(RegisterNode{node("f1", 1)})
	r.do(SetSetting{Key: SettingClusterID, Value: "cluster-7"})
	r.do(PutToken{Token: Token{ID: "t1", SecretHash: [32]byte{1}, Role: RoleFrontend, UsesLeft: 2, ExpiresUnix: 100}})
	r.do(UseToken{ID: "t1", SecretHash: [32]byte{1}, Role: RoleFrontend, NodeID: "f9"})
	for i := range 300 {
		n := mbox.Name(fmt.Sprintf("user.u%d.box^%d", i/3, i))
		owner := fmt.Sprintf("u%d\tlrs\t", i/3)
		r.write(activate(n, mbox.At(srvA, fmt.Sprint(i%4)), mbox.ACL(owner), by("1", srvA)))
	}
	r.write(activate("big", "a.example!p", mbox.ACL(strings.Repeat("x\tlrs\t", 20_000)), by("1", srvA)))
	r.write(activate("big", "b.example!p", acl, by("1", srvB)))
	r.write(remove("user.u1.box^3", by("2", srvA)))
	r.write(endSession("2"))
	r.write(remove("user.u1.box^4", by("2", srvA)))
	r.write(deactivate("user.u2.box^6", "a.example!p", by("3", srvA)))
	r.write(deactivate("user.u2.box^7", "a.example!p", by("3", srvA)))
	r.write(activate("user.u2.box^7", "b.example!p", acl, by("4", srvB)))
	r.write(reserve("new", "a.example!p", by("3", srvA)))
	r.batch(Envelope{p.Proposer, p.Incarnation, 3, 2, MailboxWrite{Write: reserve("new", "b.example!p", by("4", srvB))}})
	return r
}

func TestSnapshotHasEverything(t *testing.T) {
	r := everything(t)
	back := restored(t, r.m)
	for name, length := range map[string]int{
		"holds": back.holds.len(), "leases": back.leases.len(), "tombstones": back.tombstones.len(), "cuts": back.cuts.len(),
		"conflicts": back.conflicts.len(), "departures": back.departures.len(), "events": back.events.len(), "nodes": back.nodes.len(), "settings": back.settings.len(),
		"tokens": back.tokens.len(), "proposers": len(back.proposers.clone()), "results": len(back.proposers.clone()[0].results),
	} {
		if length == 0 {
			t.Errorf("the test has no %s", name)
		}
	}
	for what, indexes := range map[string][2]*index{
		"sessionHolds": {r.m.sessionHolds, back.sessionHolds}, "deadlines": {r.m.deadlines, back.deadlines},
		"tombAge": {r.m.tombAge, back.tombAge}, "cutAge": {r.m.cutAge, back.cutAge}, "departureAge": {r.m.departureAge, back.departureAge}, "eventNames": {r.m.eventNames, back.eventNames}, "refusals": {r.m.refusals, back.refusals},
	} {
		if !slices.Equal(indexes[0].Items(), indexes[1].Items()) {
			t.Errorf("index %s is not rebuilt: %v and %v", what, indexes[0].Items(), indexes[1].Items())
		}
	}
	var a, b []mbox.Entry
	r.m.View().Ascend("", func(e mbox.Entry) bool { a = append(a, e); return true })
	back.View().Ascend("", func(e mbox.Entry) bool { b = append(b, e); return true })
	if !slices.Equal(a, b) {
		t.Error("mailboxes differ")
	}
	h, err := ReadSnapshotHeader(bytes.NewReader(snapshotBytes(t, r.m)))
	if err != nil || h.Index != r.index || h.ClusterID != "cluster-7" || h.Mailboxes != uint64(r.m.View().Len()) || h.Digest != r.m.Digest() {
		t.Errorf("header %+v, %v", h, err)
	}
}

// Two copies, one of which came from a snapshot, stay equal.
func TestRestoredGoesOn(t *testing.T) {
	r := everything(t)
	other := restored(t, r.m)
	for _, c := range []Command{NewTerm{2, "c1"}, MailboxWrite{Write: endSession("3")}, Tick{}, RegisterProposer{"f1", "n2"}} {
		r.pass(100 * second)
		r.do(c)
		if _, err := other.Apply(r.index, r.log[len(r.log)-1]); err != nil {
			t.Fatal(err)
		}
		wantSame(t, r.m, other)
	}
}

func TestDamagedSnapshots(t *testing.T) {
	good := snapshotBytes(t, everything(t).m)
	var corruptErr *CorruptError
	var versionErr *SnapshotVersionError
	for i := 0; i < len(good); i += 1 + len(good)/500 {
		bad := slices.Clone(good)
		bad[i] ^= 0x04
		if m, err := ReadSnapshot(bytes.NewReader(bad)); !errors.As(err, &corruptErr) && !errors.As(err, &versionErr) {
			// zstd has octets without a meaning.
			if err != nil || m.Digest() != everything(t).m.Digest() {
				t.Errorf("octet %d changed: %v", i, err)
			}
		}
		if _, err := ReadSnapshot(bytes.NewReader(good[:i])); !errors.As(err, &corruptErr) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	if _, err := ReadSnapshot(io.MultiReader(bytes.NewReader(good), strings.NewReader("x"))); !errors.As(err, &corruptErr) {
		t.Errorf("something at the end: %v", err)
	}
	broken := errors.New("disk on fire")
	if _, err := ReadSnapshot(io.MultiReader(bytes.NewReader(good[:100]), failing{broken})); !errors.Is(err, broken) {
		t.Errorf("reader's error: %v", err)
	}
	if _, err := everything(t).m.Snapshot().WriteTo(failing{broken}); !errors.Is(err, broken) {
		t.Errorf("writer's error: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }

func unzipped(t testing.TB, snapshot []byte) []byte {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(snapshot[16:]))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func zipped(raw []byte) []byte {
	var b bytes.Buffer
	b.WriteString(snapshotMagic + "\x01")
	z, _ := zstd.NewWriter(&b)
	z.Write(raw)
	z.Close()
	return b.Bytes()
}

func TestUnknownSections(t *testing.T) {
	raw := unzipped(t, snapshotBytes(t, everything(t).m))
	section := func(flags, needs byte) []byte {
		var b bytes.Buffer
		w := &blockWriter{w: &b}
		w.begin(sectionHeader)
		w.row([]byte(strings.Repeat("from the future ", 10_000)))
		w.open = 0
		w.end()
		s := b.Bytes()
		copy(s, []byte{200, flags, needs})
		copy(s[3:], crcOf(s[:3]))
		return s
	}
	// After the header section: 7 octets, one block, the end.
	size := 7 + 8 + int(raw[7]) + 4
	with := func(s []byte) []byte { return zipped(slices.Concat(raw[:size], s, raw[size:])) }
	if m, err := ReadSnapshot(bytes.NewReader(with(section(sectionOptional, 9)))); err != nil || m.Len() == 0 {
		t.Errorf("optional section: %v", err)
	}
	var versionErr *SnapshotVersionError
	if _, err := ReadSnapshot(bytes.NewReader(with(section(0, 9)))); !errors.As(err, &versionErr) || versionErr.Needs != 9 {
		t.Errorf("needed section: %v", err)
	}
	newer := snapshotBytes(t, New())
	newer[15] = 5
	if _, err := ReadSnapshot(bytes.NewReader(newer)); !errors.As(err, &versionErr) || versionErr.Needs != 5 {
		t.Errorf("newer format: %v", err)
	}
}

func (m *Machine) Len() int { return m.View().Len() }

func crcOf(b []byte) []byte {
	w := new(bytes.Buffer)
	(&blockWriter{w: w}).block(b)
	return w.Bytes()[4:8]
}

// A lost or doubled block passes its checksum; counts and digest notice.
func TestMissingSection(t *testing.T) {
	raw := unzipped(t, snapshotBytes(t, everything(t).m))
	var corruptErr *CorruptError
	for i := 0; i+7 < len(raw); i++ {
		if raw[i+1] == 0 && raw[i+2] == SnapshotVersion && bytes.Equal(raw[i+3:i+7], crcOf(raw[i:i+3])) && raw[i] > 1 {
			end := i + 7
			for n := 1; n != 0; {
				n = int(uint32(raw[end]) | uint32(raw[end+1])<<8 | uint32(raw[end+2])<<16)
				end += 4
				if n > 0 {
					end += 4 + n
				}
			}
			if _, err := ReadSnapshot(bytes.NewReader(zipped(slices.Concat(raw[:i], raw[end:])))); !errors.As(err, &corruptErr) {
				t.Errorf("without section %d: %v", raw[i], err)
			}
			if _, err := ReadSnapshot(bytes.NewReader(zipped(slices.Concat(raw[:end], raw[i:])))); !errors.As(err, &corruptErr) {
				t.Errorf("with section %d twice: %v", raw[i], err)
			}
			i = end - 1
		}
	}
}

func FuzzReadSnapshot(f *testing.F) {
	f.Add(unzipped(f, snapshotBytes(f, New())))
	r := newRig(f)
	r.write(activate("user.a", "a.example!p", "a\tlrs\t", by("1", srvA)))
	r.write(reserve("user.b", "a.example!p", by("1", srvA)))
	f.Add(unzipped(f, snapshotBytes(f, r.m)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		fixCRCs(raw)
		l := loader{m: New(), b: &blockReader{r: bufio.NewReader(bytes.NewReader(raw))}}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := l.load()
		runtime.ReadMemStats(&after)
		if spent := after.TotalAlloc - before.TotalAlloc; spent > 1<<20+256*uint64(len(raw)) {
			t.Errorf("%d octets made us allocate %d", len(raw), spent)
		}
		if err == nil {
			restored(t, l.m)
		}
	})
}

// fixCRCs lets the fuzzer get past the checksums.
func fixCRCs(raw []byte) {
	for i := 0; i+7 <= len(raw); {
		copy(raw[i+3:], crcOf(raw[i:i+3]))
		i += 7
		for i+4 <= len(raw) {
			n := int(raw[i]) | int(raw[i+1])<<8 | int(raw[i+2])<<16 | int(raw[i+3])<<24
			if n == 0 {
				i += 4
				break
			}
			if i+8+n > len(raw) || n < 0 {
				return
			}
			copy(raw[i+4:], crcOf(raw[i+8:i+8+n]))
			i += 8 + n
		}
	}
}

func TestACLPacking(t *testing.T) {
	for _, c := range []struct {
		name   mbox.Name
		acl    mbox.ACL
		packed string
	}{
		{"user.u.box", "u\tlrs\tanyone\tp\t", "\x01\tlrs\tanyone\tp\t"},
		{"user.u.box", "-u\tlrs\tuu\tu\t", "-\x01\tlrs\tuu\tu\t"},
		{"user.u^v", "u.v\tl\t", "\x01\tl\t"},
		{"ex.org!user.u", "u@ex.org\tl\tu\tl\t", "\x01\tl\tu\tl\t"},
		{"ex.org!DELETED.user.u.5F", "u@ex.org\tl\t", "\x01\tl\t"},
		{"user.u", "u\tl", "\x01\tl"},
		{"user.u", "u", "\x01"},
		{"user.u", "\x01\tl\tu\tl\t", ""},
		{"user.", "\tl\t", ""},
		{"shared.u", "u\tl\t", ""},
		{"user.u", "", ""},
	} {
		s := shapeOf(mbox.Entry{Name: c.name, ACL: c.acl})
		if s.packed != (c.packed != "") || (s.packed && s.acl != c.packed) {
			t.Errorf("%s %q: packed %v as %q", c.name, c.acl, s.packed, s.acl)
		}
		if got := unpackACL(s, c.name); got != c.acl {
			t.Errorf("%s %q: comes back as %q", c.name, c.acl, got)
		}
	}
}

func FuzzACLPacking(f *testing.F) {
	f.Add("user.u", "u\tl\t-u\tp\t")
	f.Add("d!user.a^b.c", "a.b@d\tl\t")
	f.Fuzz(func(t *testing.T, name, acl string) {
		s := shapeOf(mbox.Entry{Name: mbox.Name(name), ACL: mbox.ACL(acl)})
		if got := unpackACL(s, mbox.Name(name)); string(got) != acl {
			t.Errorf("%q %q: comes back as %q", name, acl, got)
		}
	})
}

// Shapes that nobody has any more are forgotten.
func TestShapesAreReleased(t *testing.T) {
	r := newRig(t)
	for i := range 1000 {
		r.write(activate("x", mbox.At(srvA, fmt.Sprint(i)), acl, by("1", srvA)))
		r.write(activate("y", mbox.At(srvA, fmt.Sprint(i)), mbox.ACL(fmt.Sprint(i)), by("1", srvA)))
	}
	if n := len(r.m.mail.shared); n != 2 {
		t.Errorf("%d shapes of two mailboxes", n)
	}
	r.write(remove("x", by("1", srvA)))
	r.write(remove("y", by("1", srvA)))
	if n := len(r.m.mail.shared); n != 0 {
		t.Errorf("%d shapes of none", n)
	}
}

func TestDiff(t *testing.T) {
	changes := func(old, new *View) (list []mbox.Change) {
		Diff(old, new, func(c mbox.Change) bool {
			list = append(list, c)
			return true
		})
		return list
	}
	a, b := newRig(t), newRig(t)
	for _, n := range []mbox.Name{"both", "gone", "moved", "same"} {
		a.write(activate(n, "a.example!p", acl, by("1", srvA)))
	}
	b.index = 100
	b.write(activate("same", "a.example!p", acl, by("1", srvA)))
	b.write(activate("moved", "b.example!p", acl, by("1", srvB)))
	b.write(activate("both", "a.example!p", acl, by("1", srvA)))
	b.write(reserve("new", "b.example!p", by("1", srvB)))
	want := []mbox.Change{
		{Entry: mbox.Entry{Name: "gone", Index: 104}, Old: "a.example!p"},
		{Entry: mbox.Entry{Name: "moved", Location: "b.example!p", ACL: acl, State: mbox.Active, Index: 102}, Old: "a.example!p"},
		{Entry: mbox.Entry{Name: "new", Location: "b.example!p", State: mbox.Reserved, Index: 104}},
	}
	if got := changes(a.m.View(), b.m.View()); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := changes(a.m.View(), restored(t, a.m).View()); len(got) != 0 {
		t.Errorf("to itself: %+v", got)
	}
	if got := changes(New().View(), a.m.View()); len(got) != 4 {
		t.Errorf("from nothing: %+v", got)
	}
	if got := changes(a.m.View(), New().View()); len(got) != 4 {
		t.Errorf("to nothing: %+v", got)
	}
	Diff(a.m.View(), New().View(), func(mbox.Change) bool { return false })
}
