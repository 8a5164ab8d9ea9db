package inflate

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// Every flush of a compressor comes out whole before the next octets are there. testdata/flushes.txt was
// made by zlib: at each level one stream of commands and noise, most ended by Z_PARTIAL_FLUSH, some by
// Z_SYNC_FLUSH; a line is the level, what was written and what that became.
func TestFlushed(t *testing.T) {
	file, err := os.Open("testdata/flushes.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var level string
	var near, far net.Conn
	var r io.Reader
	lines := bufio.NewScanner(file)
	n := 0
	for ; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		text, compressed := octets(t, fields[1]), octets(t, fields[2])
		if fields[0] != level {
			level = fields[0]
			near, far = net.Pipe()
			defer near.Close()
			defer far.Close()
			near.SetDeadline(time.Now().Add(10 * time.Second))
			r = NewReader(near)
		}
		go far.Write(compressed)
		got := make([]byte, len(text))
		if k, err := io.ReadFull(r, got); err != nil {
			t.Fatalf("line %d: %d of %d octets came: %v", n+1, k, len(text), err)
		}
		if !bytes.Equal(got, text) {
			t.Fatalf("line %d: got %q, want %q", n+1, got, text)
		}
	}
	if n < 90 {
		t.Errorf("only %d flushes", n)
	}
}

func TestTruncated(t *testing.T) {
	for _, input := range []string{"", "3256", "ca"} {
		if _, err := io.ReadAll(NewReader(bytes.NewReader(octets(t, input)))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %v", input, err)
		}
	}
}

func octets(t *testing.T, text string) []byte {
	t.Helper()
	p, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// How much does it cost to hand out each flush at once? For comparison: text comes from clients at the
// speed of a line.
func BenchmarkReader(b *testing.B) {
	file, err := os.ReadFile("testdata/flushes.txt")
	if err != nil {
		b.Fatal(err)
	}
	var stream []byte
	var size int64
	for line := range strings.Lines(string(file)) {
		if fields := strings.Fields(line); fields[0] == "6" {
			p, _ := hex.DecodeString(fields[2])
			stream = append(stream, p...)
			size += int64(len(fields[1]) / 2)
		}
	}
	b.SetBytes(size)
	for b.Loop() {
		io.Copy(io.Discard, NewReader(bytes.NewReader(stream)))
	}
}
