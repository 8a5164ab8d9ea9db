package bench

import (
	"io"
	"net"
	"strings"
)

// A relay copies octets between a client and a backend, and knows no protocol: what passing commands on costs any
// Go program, and so the floor for ours. It is a process of its own, as the proxies beside it are.

// relayEnv tells a process that it is one: where to listen, and the backend, with a space between.
const relayEnv = "MURDER_BENCH_RELAY"

// startRelay starts one in front of the IMAP server at.
func startRelay(addr, at string) (target, func(), error) {
	cmd, err := startOwn(relayEnv, addr, at)
	if err != nil {
		return target{}, func() {}, err
	}
	stop := func() { cmd.Process.Kill(); cmd.Wait() }
	return target{name: "relay", addr: addr, pid: cmd.Process.Pid}, stop, answers(addr, "* OK")
}

// beRelay is the life of one.
func beRelay(where string) {
	addr, at, _ := strings.Cut(where, " ")
	beOwn(addr, func(client net.Conn) {
		defer client.Close()
		backend, err := net.Dial("tcp", at)
		if err != nil {
			return
		}
		defer backend.Close()
		go func() {
			copyOctets(client, backend)
			client.Close()
		}()
		copyOctets(backend, client)
	})
}

// copyOctets goes through a buffer, which for small answers is cheaper than splice.
func copyOctets(to io.Writer, from io.Reader) {
	io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 16<<10))
}
