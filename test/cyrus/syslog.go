package cyrus

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// keptLines bounds the memory of a collector; the file keeps all.
const keptLines = 20000

// collector is the syslog of a rig: Cyrus speaks to syslog alone. Lines begin "node/program[pid]".
type collector struct {
	conn  *net.UnixConn
	file  *os.File
	mu    sync.Mutex
	lines []string
	added chan struct{} // closed and replaced at every line
}

func newCollector(socket, file string) (*collector, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	conn.SetReadBuffer(1 << 20)
	if err := os.Chmod(socket, 0o666); err != nil {
		conn.Close()
		return nil, err
	}
	f, err := os.Create(file)
	if err != nil {
		conn.Close()
		return nil, err
	}
	c := &collector{conn: conn, file: f, added: make(chan struct{})}
	go c.run()
	return c, nil
}

// header is "<priority>Mon dd hh:mm:ss ".
var header = regexp.MustCompile(`^<(\d+)>(?:\w{3} [ \d]\d \d\d:\d\d:\d\d )?`)

func (c *collector) run() {
	buf := make([]byte, 64<<10)
	for {
		n, _, err := c.conn.ReadFromUnix(buf)
		if err != nil {
			return
		}
		line := strings.TrimRight(string(buf[:n]), "\n\x00")
		line = header.ReplaceAllString(line, "")
		c.mu.Lock()
		c.lines = append(c.lines, line)
		if len(c.lines) > keptLines {
			c.lines = append([]string(nil), c.lines[keptLines/2:]...)
		}
		close(c.added)
		c.added = make(chan struct{})
		c.mu.Unlock()
		fmt.Fprintf(c.file, "%s %s\n", time.Now().UTC().Format("15:04:05.000"), line)
	}
}

// of returns the kept lines of one node, or of all if node is empty.
func (c *collector) of(node string) (lines []string, added <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lines {
		if node == "" || strings.HasPrefix(l, node+"/") {
			lines = append(lines, l)
		}
	}
	return lines, c.added
}

func (c *collector) close() {
	c.conn.Close()
	c.file.Close()
}
