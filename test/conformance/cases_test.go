package conformance

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Every case of cases.txt is told where the list says: its number stands in that file, and the test that
// the list names is there.
func TestCases(t *testing.T) {
	list, err := os.ReadFile("cases.txt")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(list)) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		id, file := words[0], words[1]
		if seen[id] {
			t.Errorf("%s is there twice", id)
		}
		seen[id] = true
		text, err := os.ReadFile(filepath.Join("..", "..", file))
		if err != nil {
			t.Errorf("%s: %v", id, err)
			continue
		}
		if !mentions(string(text), id) {
			t.Errorf("%s does not mention %s", file, id)
		}
		if strings.HasSuffix(file, ".go") && !strings.Contains(string(text), "\nfunc "+words[2]+"(t ") {
			t.Errorf("%s: %s has no %s", id, file, words[2])
		}
	}
	if len(seen) != 98 {
		t.Errorf("%d cases", len(seen))
	}
}

var span = regexp.MustCompile(`\b([A-Z])(\d+) to [A-Z](\d+)\b`)

// mentions looks for a case in the comments of a file: by itself, or in "V1 to V9".
func mentions(text, id string) bool {
	for line := range strings.Lines(text) {
		_, comment, ok := strings.Cut(line, "//")
		if strings.HasPrefix(line, "#") {
			comment, ok = line, true
		}
		if !ok {
			continue
		}
		if regexp.MustCompile(`\b` + id + `\b`).MatchString(comment) {
			return true
		}
		for _, m := range span.FindAllStringSubmatch(comment, -1) {
			n, _ := strconv.Atoi(id[1:])
			first, _ := strconv.Atoi(m[2])
			last, _ := strconv.Atoi(m[3])
			if m[1] == id[:1] && first <= n && n <= last {
				return true
			}
		}
	}
	return false
}
