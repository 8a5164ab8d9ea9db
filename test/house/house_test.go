// Package house holds the import rules that keep the rooms of this project apart.
package house

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// A rule says what the packages under room may not import.
var rules = []struct {
	room   string
	except []string // packages under room that the rule does not bind
	forbid []string // import path prefixes
	allow  []string // exceptions to forbid
	why    string
}{
	{room: "murder/internal/mbox", forbid: []string{"murder/", "github.com/", "golang.org/", "go."},
		why: "the vocabulary imports only the standard library"},
	{room: "murder/fsm", forbid: []string{"murder/"}, allow: []string{"murder/internal/mbox"},
		why: "the state machine knows the vocabulary and nothing else of ours"},
	{room: "murder/fsm", forbid: []string{"net", "os", "time", "math/rand", "crypto/rand", "log", "context"},
		why: "the state machine is pure: no clock, no randomness, no input or output"},
	{room: "murder/mupdate", forbid: []string{"murder/cluster", "murder/fsm", "murder/proxy", "murder/lmtp"},
		why: "protocols ask for an interface; cmd/murderd hands them what fits"},
	{room: "murder/lmtp", forbid: []string{"murder/cluster", "murder/fsm", "murder/proxy", "murder/mupdate"},
		why: "protocols ask for an interface; cmd/murderd hands them what fits"},
	{room: "murder/proxy", forbid: []string{"murder/cluster", "murder/fsm", "murder/mupdate", "murder/lmtp"},
		why: "protocols ask for an interface; cmd/murderd hands them what fits"},
	{room: "murder/internal", forbid: []string{"murder/"}, allow: []string{"murder/internal/"}, except: []string{"murder/internal/demo"},
		why: "leaf packages have no way back up"},
	{room: "murder", forbid: []string{"github.com/hashicorp/"}, except: []string{"murder/cluster", "murder/fsm", "murder/test"},
		why: "only cluster, and one thin file of fsm, know hashicorp"},
}

type pkg struct {
	ImportPath string
	Imports    []string
}

func TestImports(t *testing.T) {
	for _, p := range list(t) {
		for _, r := range rules {
			if !under(p.ImportPath, r.room) || anyUnder(p.ImportPath, r.except) {
				continue
			}
			for _, imp := range p.Imports {
				if anyUnder(imp, r.forbid) && !anyUnder(imp, r.allow) && !under(imp, r.room) {
					t.Errorf("%s imports %s: %s", p.ImportPath, imp, r.why)
				}
			}
		}
		if !under(p.ImportPath, "murder/test") {
			for _, imp := range p.Imports {
				if under(imp, "murder/test") {
					t.Errorf("%s imports %s: nothing imports test", p.ImportPath, imp)
				}
			}
		}
	}
}

// The proxies are rooms of their own, one for each protocol.
func TestProxiesAreApart(t *testing.T) {
	for _, p := range list(t) {
		rest, ok := strings.CutPrefix(p.ImportPath, "murder/proxy/")
		if !ok {
			continue
		}
		own, _, _ := strings.Cut(rest, "/")
		for _, imp := range p.Imports {
			other, ok := strings.CutPrefix(imp, "murder/proxy/")
			other, _, _ = strings.Cut(other, "/")
			if ok && other != own && other != "login" {
				t.Errorf("%s imports %s: proxies share only proxy/login", p.ImportPath, imp)
			}
		}
	}
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "murder/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 3 {
		t.Fatalf("go list found only %d packages", len(pkgs))
	}
	return pkgs
}

// under reports whether path is prefix or lies below it; a prefix ending in "/" or "." is matched as text.
func under(path, prefix string) bool {
	if strings.HasSuffix(prefix, "/") || strings.HasSuffix(prefix, ".") {
		return strings.HasPrefix(path, prefix)
	}
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

func anyUnder(path string, prefixes []string) bool {
	for _, p := range prefixes {
		if under(path, p) {
			return true
		}
	}
	return false
}
