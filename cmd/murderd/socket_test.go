package main

import (
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"murder/internal/config"
)

// A socket gets the owner, group and mode that the settings say, and lets in the users that they name.
func TestSocket(t *testing.T) {
	me, group := strconv.Itoa(os.Getuid()), strconv.Itoa(os.Getgid())
	d := &daemon{log: slog.New(slog.DiscardHandler)}
	for _, c := range []struct {
		name     string
		settings config.Socket
		mode     os.FileMode
		made, in bool
	}{
		{"default", config.Default(config.Frontend).LMTP.Socket, 0o660, true, true},
		{"everything", config.Socket{Mode: "0606", Owner: me, Group: group, Users: []string{"nobody", me}}, 0o606, true, true},
		{"somebody else's", config.Socket{Mode: "0666", Users: []string{"4294967294"}}, 0o666, true, false},
		{"no such owner", config.Socket{Mode: "0660", Owner: "no.such.user"}, 0, false, false},
		{"no such group", config.Socket{Mode: "0660", Group: "no.such.group"}, 0, false, false},
		{"no such user", config.Socket{Mode: "0660", Users: []string{"no.such.user"}}, 0, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			ln, err := d.listen(path, &c.settings)
			if (err == nil) != c.made {
				t.Fatal(err)
			}
			if err != nil {
				return
			}
			defer ln.Close()
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if st := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != c.mode || strconv.Itoa(int(st.Uid)) != me || strconv.Itoa(int(st.Gid)) != group {
				t.Errorf("%v of %d:%d", info.Mode(), st.Uid, st.Gid)
			}
			go func() {
				if conn, err := ln.Accept(); err == nil {
					io.WriteString(conn, "hello")
					conn.Close()
				}
			}()
			conn, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if text, err := io.ReadAll(conn); (string(text) == "hello") != c.in {
				t.Errorf("got %q %v", text, err)
			}
		})
	}
}
