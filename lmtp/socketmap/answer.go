package socketmap

import (
	"context"
	"net"
	"strconv"

	"murder/internal/backend"
	"murder/internal/mbox"
	"murder/lmtp"
)

// kind is how a question is answered.
type kind uint8

const (
	found     kind = iota
	notFound       // certainly
	temporary      // ask again
	malformed      // there is no such map
)

// answer is what a question got: the value, or a reason.
type answer struct {
	kind kind
	text string
}

var (
	absent = answer{notFound, ""}
	noMap  = answer{malformed, "no such map"}
)

// unknown answers for a recipient or folder that is not in the map.
func (s *Server) unknown() answer {
	if s.cfg.DeferUnknown {
		return answer{temporary, "not in the mailbox directory, which is being filled"}
	}
	return absent
}

// ask looks a key up in one of the maps.
func (s *Server) ask(ctx context.Context, table, key string) answer {
	switch table {
	case "mailbox", "mailbox-strict", "transport", "backend":
	case "transport-proxy":
		if s.cfg.ProxyTransport == "" {
			return noMap
		}
	default:
		return noMap
	}
	address, err := lmtp.ParseAddress(key)
	if err != nil {
		return absent
	}
	route := s.cfg.Resolver.Resolve(ctx, address, "")
	switch route.Status {
	case lmtp.Found:
	case lmtp.Unknown:
		return s.unknown()
	case lmtp.NoPost:
		return absent
	case lmtp.Moving:
		// The recipient exists, and where mail goes will be known soon.
		if table == "transport" || table == "backend" || table == "mailbox-strict" {
			return answer{temporary, "mailbox is being moved or created"}
		}
	case lmtp.Loop:
		return answer{temporary, "mailbox is recorded on this frontend itself"}
	default:
		return answer{temporary, "mailbox directory unavailable"}
	}
	return s.value(ctx, table, key, address, route)
}

// value answers for a recipient that exists.
func (s *Server) value(ctx context.Context, table, key string, address lmtp.Address, route lmtp.Route) answer {
	switch table {
	case "mailbox-strict":
		if s.cfg.Resolver.State(route.Folder) != mbox.Active && !route.Fresh {
			if route = s.cfg.Resolver.ResolveFresh(ctx, address, ""); !route.Fresh {
				return answer{temporary, "mailbox directory unavailable"}
			}
		}
		switch s.cfg.Resolver.State(route.Folder) {
		case mbox.Absent:
			return s.unknown()
		case mbox.Reserved:
			return answer{temporary, "mailbox is being moved or created"}
		}
	case "transport":
		if route.Server == "" {
			return answer{temporary, "mailbox has no server"}
		}
		host, port := s.cfg.lmtpAddress(route.Server)
		return answer{found, "lmtp:inet:[" + host + "]:" + strconv.Itoa(port)}
	case "transport-proxy":
		return answer{found, s.cfg.ProxyTransport}
	case "backend":
		if route.Server == "" {
			return answer{temporary, "mailbox has no server"}
		}
		return answer{found, string(route.Server)}
	}
	return answer{found, key}
}

// lmtpAddress is where a server takes mail.
func (c *Config) lmtpAddress(server mbox.Server) (host string, port int) {
	port = 2003
	host = string(server)
	if c.Backends != nil {
		set := c.Backends.Settings(server)
		host = set.Host
		if p := set.Ports[backend.LMTP]; p != 0 {
			port = p
		}
	} else if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return host, port
}
