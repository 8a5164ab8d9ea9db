package main

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"murder/internal/auth"
	"murder/internal/config"
	"murder/internal/limit"
)

// Cyrus's mupdate_username beside mupdate_authname: every identity may name another one if that is
// allowed, and nobody becomes an administrator by it.
func TestMUPDATEProxy(t *testing.T) {
	for _, c := range []struct {
		allow bool
		authz string
		want  bool
	}{{true, "be1", true}, {true, "root", false}, {false, "be1", false}, {false, "murder", true}, {false, "", true}} {
		d := &daemon{cfg: &config.Config{}, log: slog.New(slog.DiscardHandler), reg: prometheus.NewRegistry(),
			users: &users{failures: limit.NewFailures(100, time.Second, 10)}}
		d.cfg.MUPDATE.AllowProxy, d.cfg.MUPDATE.Mechs = c.allow, []string{"PLAIN"}
		d.cfg.MUPDATE.Identities = map[string]config.Identity{
			"murder": {Role: "backend", Password: "secret"}, "root": {Role: "admin", Password: "other"},
		}
		m, err := d.mupdateMechanisms()
		if err != nil {
			t.Fatal(err)
		}
		x, err := m.Start(t.Context(), auth.Plain, auth.Conn{Protocol: "mupdate", Peer: netip.MustParseAddrPort("127.0.0.1:1")})
		if err != nil {
			t.Fatal(err)
		}
		_, done, err := x.Next([]byte(c.authz + "\x00murder\x00secret"))
		if ok := done && err == nil; ok != c.want {
			t.Errorf("allow_proxy %v, acting as %q: %v, want %v: %v", c.allow, c.authz, ok, c.want, err)
		} else if ok && (x.Result().Authc != "murder" || c.authz != "" && x.Result().Authz != c.authz) {
			t.Errorf("acting as %q: %+v", c.authz, x.Result())
		}
	}
}
