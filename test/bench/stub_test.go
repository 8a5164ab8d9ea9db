package bench

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"murder/internal/imapwire"
)

// A stub is a backend that costs next to nothing: it knows one mailbox, with messages of any size, so that
// what is measured is what stands in front of it. Whoever comes is let in. It is a process of its own,
// because of the number of descriptors.

// stubEnv tells a process that it is a stub, and where to listen.
const stubEnv = "MURDER_BENCH_STUB"

// startStub starts one.
func startStub(addr string) (*exec.Cmd, error) { return startOwn(stubEnv, addr) }

// startOwn starts this program again, as what env makes of it, listening at addr.
func startOwn(env, addr string, more ...string) (*exec.Cmd, error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), env+"="+strings.Join(append([]string{addr}, more...), " "))
	cmd.Stderr = os.Stderr
	input, err := cmd.StdinPipe() // which ends with us
	if err != nil {
		return nil, err
	}
	_ = input
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			return cmd, nc.Close()
		}
		if time.Now().After(end) {
			cmd.Process.Kill()
			return nil, fmt.Errorf("starting a stub: %w", err)
		}
	}
}

// beStub is the life of one.
func beStub(addr string) { beOwn(addr, serveStub) }

func beOwn(addr string, serve func(net.Conn)) {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "stub:", err)
		os.Exit(1)
	}
	for {
		nc, err := ln.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "stub:", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		go serve(nc)
	}
}

const stubCaps = "IMAP4rev1 LITERAL+ ID ENABLE NAMESPACE UIDPLUS UNSELECT IDLE MOVE CONDSTORE ESEARCH"

func serveStub(nc net.Conn) {
	defer nc.Close()
	r := bufio.NewReaderSize(nc, 1024)
	if _, err := io.WriteString(nc, "* OK [CAPABILITY "+stubCaps+" AUTH=PLAIN SASL-IR] stub ready\r\n"); err != nil {
		return
	}
	var out, line []byte
	for {
		var err error
		if line, err = imapwire.ReadLine(r, line[:0], 64<<10); err != nil {
			return
		}
		tag, rest, _ := strings.Cut(string(line), " ")
		verb, args, _ := strings.Cut(rest, " ")
		out = out[:0]
		for lit, ok, _ := imapwire.TrailingLiteral(line); ok; lit, ok, _ = imapwire.TrailingLiteral(line) {
			if !lit.NonSync {
				nc.Write([]byte("+ go\r\n"))
			}
			if _, err := r.Discard(int(lit.Size)); err != nil {
				return
			}
			if line, err = imapwire.ReadLine(r, line[:0], 1000); err != nil {
				return
			}
		}
		switch strings.ToUpper(verb) {
		case "LOGIN", "AUTHENTICATE":
			out = fmt.Appendf(out, "%s OK [CAPABILITY %s] in\r\n", tag, stubCaps)
		case "CAPABILITY":
			out = fmt.Appendf(out, "* CAPABILITY %s AUTH=PLAIN SASL-IR\r\n%s OK done\r\n", stubCaps, tag)
		case "NAMESPACE":
			out = fmt.Appendf(out, "* NAMESPACE ((\"INBOX.\" \".\")) ((\"user.\" \".\")) ((\"\" \".\"))\r\n%s OK done\r\n", tag)
		case "SELECT":
			out = fmt.Appendf(out, "* 1 EXISTS\r\n* 0 RECENT\r\n* FLAGS (\\Answered \\Flagged \\Draft \\Deleted \\Seen)\r\n"+
				"* OK [PERMANENTFLAGS (\\*)] ok\r\n* OK [UIDVALIDITY 1] ok\r\n* OK [UIDNEXT 2] ok\r\n%s OK [READ-WRITE] done\r\n", tag)
		case "FETCH": // "FETCH size count piece": that many messages of that size, written in pieces as Cyrus does
			var size, count, piece int
			fmt.Sscan(args, &size, &count, &piece)
			for i := range count {
				out = fmt.Appendf(out[:0], "* %d FETCH (BODY[] {%d}\r\n", i+1, size)
				out = append(append(out, stubBody[:size]...), ")\r\n"...)
				for len(out) > 0 {
					n := min(len(out), piece)
					if _, err := nc.Write(out[:n]); err != nil {
						return
					}
					out = out[n:]
				}
			}
			out = fmt.Appendf(out, "%s OK done\r\n", tag)
		case "IDLE":
			nc.Write([]byte("+ idling\r\n"))
			if _, err := imapwire.ReadLine(r, nil, 100); err != nil {
				return
			}
			out = fmt.Appendf(out, "%s OK done\r\n", tag)
		case "LOGOUT":
			fmt.Fprintf(nc, "* BYE bye\r\n%s OK done\r\n", tag)
			return
		default:
			out = fmt.Appendf(out, "%s OK done\r\n", tag)
		}
		if _, err := nc.Write(out); err != nil {
			return
		}
	}
}

// stubBody is what messages consist of.
var stubBody = []byte(strings.Repeat(strings.Repeat("x", 76)+"\r\n", 300_000))
