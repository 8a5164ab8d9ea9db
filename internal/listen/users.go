package listen

import (
	"log/slog"
	"net"
	"slices"
)

// OnlyUsers returns a listener on a unix socket that closes the connections of everybody but these users, whatever
// the mode of the file says. Other connections it does not touch.
func OnlyUsers(ln net.Listener, uids []uint32, log *slog.Logger) net.Listener {
	return &usersListener{ln, uids, log}
}

type usersListener struct {
	net.Listener
	uids []uint32
	log  *slog.Logger
}

// Accept waits for a connection of one of the users.
func (l *usersListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		unix, ok := conn.(*net.UnixConn)
		if !ok {
			return conn, nil
		}
		uid, err := peerUID(unix)
		if err == nil && slices.Contains(l.uids, uid) {
			return conn, nil
		}
		l.log.Warn("unix socket: user may not connect", "socket", l.Addr().String(), "uid", uid, "err", err)
		conn.Close()
	}
}
