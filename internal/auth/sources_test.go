package auth

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func hashed(t testing.TB, form, password string) string {
	t.Helper()
	h, err := HashPassword(form, password)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHashPassword(t *testing.T) {
	for _, form := range []string{FormArgon2id, FormBcrypt, FormScramSHA256, FormScramSHA1, FormPlain} {
		h := hashed(t, form, "pässword")
		if again := hashed(t, form, "pässword"); form != FormPlain && again == h {
			t.Errorf("%s: no salt", form)
		}
		u := users(t, "a:"+h)
		if _, err := u.Verify(t.Context(), "a", "pässword", local); err != nil {
			t.Errorf("%s: right password: %v", form, err)
		}
		if _, err := u.Verify(t.Context(), "a", "password", local); !errors.Is(err, ErrRejected) {
			t.Errorf("%s: wrong password: %v", form, err)
		}
	}
	for _, c := range [][2]string{{FormArgon2id, ""}, {"md5", "x"}, {FormPlain, "a:b"}, {FormArgon2id, "a\nb"}, {FormBcrypt, strings.Repeat("x", 73)}} {
		if h, err := HashPassword(c[0], c[1]); err == nil {
			t.Errorf("%s of %q gave %s", c[0], c[1], h)
		}
	}
}

// Hashes made by others: the second is the example of RFC 7677, the rest is from crypt(3) of glibc's
// successor, libxcrypt 4.4.
func TestForeignHashes(t *testing.T) {
	u := users(t,
		"six:$6$QAu0Vrrw9ftUYgkT$W8AmcYUHaOyevvdsD5N5Lh5TLI7foh8IGvDV.l2Qsdg2VKYvRt2vertlbdfo8xyQ/f/3y/EnLfYAZcC6fQ6hW/",
		"rounds:$5$rounds=2000$saltsalt$VugJAabtS0u89Oj5iGtvFY4sYH1Z6n3SZo.caxiODzA", "ldap:{CRYPT}$6$rounds=1500$pepper$njb0ziyK9qyST4flD7CSBkNDIpFrObtace5Kd2PGB6b6wZjGBYZWdm2oGB.yiw/owZ2CFTXCemHSxMCm7tQbL0", "why:$y$j9T$abcdefghijkl$H0st8d57pwR7fIYLpdYp.aME/9.PJAvdzcHbKvRHk86", "one:$1$nacl$p.e25RaIowrxIqxpDH8SI/",
		"b:$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga",
		"user:{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=")
	for user, password := range map[string]string{"b": "allmine", "user": "pencil", "six": "pw", "rounds": "pw", "ldap": "pw", "why": "pw", "one": "pw"} {
		if _, err := u.Verify(t.Context(), user, password+"x", local); !errors.Is(err, ErrRejected) {
			t.Errorf("%s with another password: %v", user, err)
		}
		if _, err := u.Verify(t.Context(), user, password, local); err != nil {
			t.Errorf("%s: %v", user, err)
		}
	}
}

func TestUsersFileErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"alice", "users:1: want name:password"},
		{"# ok\n\nalice:{PLAIN}x\nalice:{PLAIN}y", "users:4: user alice stands twice"},
		{"alice:secret", "users:1: user alice: unknown form of password"},
		{"alice:{PLAIN}", "users:1: user alice: empty password"},
		{":{PLAIN}x", "users:1: a name has"},
		{"a:{PLAIN}x:g:h", "users:1: want name:password"},
		{"a:$argon2id$v=16$m=1,t=1,p=1$AAAA$AAAA", "users:1: user a: argon2id: unknown version"},
		{"a:$argon2id$v=19$m=9999999,t=1,p=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", "out of range"},
		{"a:$6$rounds=x$s$k", "users:1: user a: crypt"},
		{"a:$y$!$s$k", "users:1: user a: crypt"},
		{"a:$2b$xx", "users:1: user a: crypto/bcrypt"},
		{"a:{SCRAM-SHA-256}4096,AAAA,AAAA,AAAA", "odd length"},
		{"a:{SCRAM-SHA-256}x,AAAA,AAAA,AAAA", "bad number of iterations"},
		{"b:{PLAIN}x\na:" + strings.Repeat("x", maxUsersLine), "users:2: bufio.Scanner: token too long"},
	} {
		_, err := ReadUsers(strings.NewReader(c.text), "users")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: got %v, want %s", c.text, err, c.want)
		}
	}
}

func TestUserLine(t *testing.T) {
	u := User{Account{Name: "a", Groups: []string{"x", "y"}, Admin: true, Proxy: true}, "{PLAIN}p"}
	if u.String() != "a:{PLAIN}p:x,y,@admin,@proxy" {
		t.Error(u.String())
	}
	if back, err := ParseUser(" a : {PLAIN}p : x, y,,@admin,@proxy"); err != nil || !reflect.DeepEqual(back, u) {
		t.Errorf("%+v %v", back, err)
	}
}

func TestFileReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	var log bytes.Buffer
	write := func(text string) {
		t.Helper()
		tmp := path + ".new"
		if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenFile(path, nil); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("missing file: %v", err)
	}
	write("alice:{PLAIN}one\n")
	f, err := OpenFile(path, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(password string) error {
		f.checked.Store(0) // a second has passed
		_, err := f.Verify(t.Context(), "alice", password, local)
		return err
	}
	if err := ask("one"); err != nil {
		t.Fatal(err)
	}
	write("alice:{PLAIN}two\n")
	if err := ask("two"); err != nil {
		t.Errorf("after a change: %v", err)
	}
	write("alice:oops\n")
	if err := ask("two"); err != nil {
		t.Errorf("after a broken change: %v", err)
	}
	if !strings.Contains(log.String(), path+":1: user alice") {
		t.Errorf("log: %s", log.String())
	}
	before := log.Len()
	if ask("two"); log.Len() != before {
		t.Errorf("the same broken file logged twice: %s", log.String()[before:])
	}
	os.Remove(path)
	if err := ask("two"); err != nil {
		t.Errorf("after removal: %v", err)
	}
	write("alice:{PLAIN}three\n")
	if err := ask("three"); err != nil {
		t.Errorf("after repair: %v", err)
	}
}

func TestEditUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	steps := []struct {
		edit func() error
		want string
		err  bool
	}{
		{func() error { return SetUser(path, User{Account{Name: "a"}, "{PLAIN}x"}) }, "a:{PLAIN}x\n", false},
		{func() error { return SetUser(path, User{Account{Name: "b", Admin: true}, "{PLAIN}y"}) }, "a:{PLAIN}x\nb:{PLAIN}y:@admin\n", false},
		{func() error { return SetUser(path, User{Account{Name: "a"}, "{PLAIN}z"}) }, "a:{PLAIN}z\nb:{PLAIN}y:@admin\n", false},
		{func() error { return SetUser(path, User{Account{Name: "a:b"}, "{PLAIN}z"}) }, "a:{PLAIN}z\nb:{PLAIN}y:@admin\n", true},
		{func() error { return SetUser(path, User{Account{Name: "#c"}, "{PLAIN}z"}) }, "a:{PLAIN}z\nb:{PLAIN}y:@admin\n", true},
		{func() error { return SetUser(path, User{Account{Name: "c"}, "z"}) }, "a:{PLAIN}z\nb:{PLAIN}y:@admin\n", true},
		{func() error { return RemoveUser(path, "c") }, "a:{PLAIN}z\nb:{PLAIN}y:@admin\n", true},
		{func() error { return RemoveUser(path, "a") }, "b:{PLAIN}y:@admin\n", false},
	}
	for i, s := range steps {
		if err := s.edit(); (err != nil) != s.err {
			t.Errorf("step %d: %v", i, err)
		}
		if got, _ := os.ReadFile(path); string(got) != s.want {
			t.Errorf("step %d: file is %q, want %q", i, got, s.want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestChain(t *testing.T) {
	first, second := users(t, "a:{PLAIN}1"), users(t, "a:{PLAIN}2", "b:{PLAIN}2:@admin")
	down := sourceFunc(func(context.Context, string, string) (Account, error) { return Account{}, ErrUnavailable })
	for _, c := range []struct {
		ch             Source
		user, password string
		err            error
	}{
		{Chain(first, second), "a", "1", nil},
		{Chain(first, second), "a", "2", ErrRejected},
		{Chain(first, second), "b", "2", nil},
		{Chain(first, second), "c", "2", ErrUnknownUser},
		{Chain(first, down), "a", "1", nil},
		{Chain(first, down), "b", "2", ErrUnavailable},
	} {
		if _, err := c.ch.Verify(t.Context(), c.user, c.password, local); !errors.Is(err, c.err) {
			t.Errorf("%s %s: %v, want %v", c.user, c.password, err, c.err)
		}
	}
	both := Chain(first, second).(AccountSource)
	if a, err := both.Lookup(t.Context(), "b"); err != nil || !a.Admin {
		t.Errorf("%+v %v", a, err)
	}
	if _, err := both.Lookup(t.Context(), "c"); !errors.Is(err, ErrUnknownUser) {
		t.Error(err)
	}
	if a, err := Chain(first, down).(AccountSource).Lookup(t.Context(), "c"); err != nil || a.Name != "c" {
		t.Errorf("%+v %v", a, err)
	}
}

func TestSaslauthd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mux")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			answerSaslauthd(conn)
		}
	}()
	defer func() { l.Close(); <-served }()
	s := &Saslauthd{Path: path, Realm: "home"}
	pop := Conn{Protocol: "pop3"}
	for _, c := range []struct {
		user, password string
		want           error
	}{
		{"alice", "alice/pop/home", nil},
		{"alice@example.org", "alice/pop/example.org", nil},
		{"alice", "wrong", ErrRejected},
		{"alice", "odd", ErrUnavailable},
		{"alice", "short", ErrUnavailable},
	} {
		a, err := s.Verify(t.Context(), c.user, c.password, pop)
		if !errors.Is(err, c.want) || err == nil && (a.Name != c.user || c.want != nil) {
			t.Errorf("%s %s: %+v %v", c.user, c.password, a, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Verify(ctx, "alice", "hang", pop); !errors.Is(err, ErrUnavailable) {
		t.Errorf("hanging: %v", err)
	}
	if _, err := (&Saslauthd{Path: path + "x"}).Verify(t.Context(), "alice", "x", pop); !errors.Is(err, ErrUnavailable) {
		t.Errorf("no socket: %v", err)
	}
}

// answerSaslauthd accepts login/service/realm as the password.
func answerSaslauthd(conn net.Conn) {
	defer conn.Close()
	var fields [4]string
	for i := range fields {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		text := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(conn, text); err != nil {
			return
		}
		fields[i] = string(text)
	}
	answer := "NO authentication failed"
	switch fields[1] {
	case fields[0] + "/" + fields[2] + "/" + fields[3]:
		answer = "OK"
	case "odd":
		answer = "MAYBE"
	case "short":
		conn.Write([]byte{0})
		return
	case "hang":
		io.Copy(io.Discard, conn)
		return
	}
	conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
}
