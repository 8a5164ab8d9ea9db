package config

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Import turns the files of a Cyrus frontend or MUPDATE master into ours.

// Imported is the result: a configuration, the secrets that belong into files of their own, and what
// could not be taken over.
type Imported struct {
	Config *Config
	// Secrets are passwords by the path that the configuration names for them.
	Secrets map[string]string
	// Notes say, one each, which option was left out and why, or what to check.
	Notes []string
}

// Option is one line of an imapd.conf.
type Option struct {
	Key, Value, File string
	Line             int
}

const maxIncludes = 16

// ReadIMAPDConf reads an imapd.conf with its @include lines.
func ReadIMAPDConf(file string) ([]Option, error) { return readIMAPDConf(file, 0) }

func readIMAPDConf(file string, depth int) ([]Option, error) {
	if depth > maxIncludes {
		return nil, fmt.Errorf("%s: @include goes round in a circle", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var options []Option
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(text, ":")
		if !ok {
			return nil, fmt.Errorf("%s:%d: want \"option: value\"", file, n)
		}
		key, value = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value)
		if key == "@include" {
			if !filepath.IsAbs(value) {
				value = filepath.Join(filepath.Dir(file), value)
			}
			more, err := readIMAPDConf(value, depth+1)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", file, n, err)
			}
			options = append(options, more...)
			continue
		}
		options = append(options, Option{key, value, file, n})
	}
	return options, lines.Err()
}

// CyrusService is one line of the SERVICES section of a cyrus.conf.
type CyrusService struct {
	Name, Program, Listen string
	TLS                   bool // from the first octet
	Master                bool // mupdate -m
}

// ReadCyrusConf reads the services of a cyrus.conf.
func ReadCyrusConf(r io.Reader) ([]CyrusService, error) {
	var services []CyrusService
	section := ""
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		switch {
		case text == "" || text[0] == '#':
		case text == "}":
			section = ""
		case section == "":
			name, _, ok := strings.Cut(text, "{")
			if !ok {
				return nil, fmt.Errorf("line %d: want \"SECTION {\"", n)
			}
			section = strings.TrimSpace(name)
		case section == "SERVICES":
			s, err := parseService(text)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			services = append(services, s)
		}
	}
	if section != "" {
		return nil, errors.New("section " + section + " has no end")
	}
	return services, lines.Err()
}

func parseService(text string) (s CyrusService, err error) {
	text = strings.ReplaceAll(text, "\t", " ")
	name, rest, _ := strings.Cut(text, " ")
	s.Name = name
	values := map[string]string{}
	for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimSpace(rest) {
		key, after, ok := strings.Cut(rest, "=")
		if !ok {
			return s, fmt.Errorf("want key=value in %q", rest)
		}
		value := ""
		if strings.HasPrefix(after, `"`) {
			if value, rest, ok = strings.Cut(after[1:], `"`); !ok {
				return s, fmt.Errorf("quote without an end in %q", rest)
			}
		} else {
			value, rest, _ = strings.Cut(after, " ")
		}
		values[strings.TrimSpace(key)] = value
	}
	command := strings.Fields(values["cmd"])
	if len(command) == 0 {
		return s, fmt.Errorf("service %s has no cmd", s.Name)
	}
	s.Program, s.Listen = filepath.Base(command[0]), values["listen"]
	s.TLS = slices.Contains(command[1:], "-s")
	s.Master = s.Program == "mupdate" && slices.Contains(command[1:], "-m")
	return s, nil
}

// cyrusPorts are the names that listen= may use for ports.
var cyrusPorts = map[string]int{"imap": 143, "imaps": 993, "pop3": 110, "pop3s": 995, "sieve": 4190, "lmtp": 24, "mupdate": 3905}

// address translates listen= of cyrus.conf: a path, [host:]port or [host:]service name.
func (s CyrusService) address() (string, error) {
	if strings.HasPrefix(s.Listen, "/") {
		return s.Listen, nil
	}
	host, port := "", s.Listen
	if i := strings.LastIndexByte(s.Listen, ':'); i >= 0 {
		host, port = strings.Trim(s.Listen[:i], "[]"), s.Listen[i+1:]
	}
	n, ok := cyrusPorts[port]
	if !ok {
		var err error
		if n, err = strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return "", fmt.Errorf("service %s: cannot tell the port of listen=%q", s.Name, s.Listen)
		}
	}
	if host == "*" {
		host = ""
	}
	return net.JoinHostPort(host, strconv.Itoa(n)), nil
}

// FromCyrus makes a configuration of the options and services of a Cyrus host. secretsDir is where
// passwords shall be kept.
func FromCyrus(options []Option, services []CyrusService, secretsDir string) Imported {
	role := Coordinator
	for _, s := range services {
		switch s.Program {
		case "proxyd", "imapd", "lmtpproxyd", "lmtpd", "pop3proxyd", "pop3d":
			role = Frontend
		}
	}
	for _, s := range services {
		if s.Master && role == Frontend {
			role = Both
		}
	}
	t := &translation{in: Imported{Config: Default(role), Secrets: map[string]string{}}, dir: secretsDir}
	t.services(services)
	// Of an option that stands more than once, the last counts.
	last := map[string]Option{}
	var keys []string
	for _, o := range options {
		if _, seen := last[o.Key]; !seen {
			keys = append(keys, o.Key)
		}
		last[o.Key] = o
	}
	for _, k := range keys {
		t.option(last[k])
	}
	t.check()
	return t.in
}

type translation struct {
	in  Imported
	dir string
}

func (t *translation) note(format string, args ...any) {
	t.in.Notes = append(t.in.Notes, fmt.Sprintf(format, args...))
}

func (t *translation) services(list []CyrusService) {
	c := t.in.Config
	if len(list) == 0 {
		return
	}
	c.MUPDATE.Listen = nil
	c.IMAP.Listen, c.IMAP.ListenTLS, c.POP3.Listen, c.POP3.ListenTLS = nil, nil, nil, nil
	c.Sieve.Listen, c.LMTP.Listen, c.Socketmap.Listen = nil, nil, nil
	for _, s := range list {
		var to *[]string
		switch s.Program {
		case "proxyd", "imapd":
			to = &c.IMAP.Listen
			if s.TLS {
				to = &c.IMAP.ListenTLS
			}
		case "pop3proxyd", "pop3d":
			to = &c.POP3.Listen
			if s.TLS {
				to = &c.POP3.ListenTLS
			}
		case "timsieved":
			to = &c.Sieve.Listen
		case "lmtpproxyd", "lmtpd":
			to = &c.LMTP.Listen
		case "smmapd":
			to = &c.Socketmap.Listen
		case "mupdate":
			to = &c.MUPDATE.Listen
		default:
			t.note("cyrus.conf: service %s (%s) has no counterpart here", s.Name, s.Program)
			continue
		}
		addr, err := s.address()
		if err != nil {
			t.note("cyrus.conf: %v", err)
			continue
		}
		*to = append(*to, addr)
	}
	if len(c.MUPDATE.Listen) == 0 {
		c.MUPDATE.Listen = []string{":3905"}
	}
}
