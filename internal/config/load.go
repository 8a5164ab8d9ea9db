package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Problem is one thing that is wrong with a file.
type Problem struct {
	File         string
	Line, Column int // 0 when the key does not stand in the file
	Key          string
	Message      string
	Hint         string // what to do, "" if the message says it
}

func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Message)
	if p.Hint != "" {
		b.WriteString("; " + p.Hint)
	}
	return b.String()
}

// Problems are all that is wrong with a file.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Load reads and checks a file. Errors of its content are Problems.
func Load(file string) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return Parse(data, file)
}

// Parse reads and checks the content of a file; name stands in errors.
func Parse(data []byte, name string) (*Config, error) {
	c, err := decode(data, name)
	if err != nil {
		return nil, err
	}
	problems := c.validate()
	if len(problems) == 0 {
		return c, nil
	}
	where := positions(data)
	for i := range problems {
		problems[i].File = name
		if at, ok := where.find(problems[i].Key); ok {
			problems[i].Line, problems[i].Column = at.Line, at.Column
		}
	}
	return nil, problems
}

// decode reads a file over the defaults of the role that it names.
func decode(data []byte, name string) (*Config, error) {
	var head struct {
		Node struct{ Role string }
	}
	if err := toml.Unmarshal(data, &head); err != nil {
		// A wrong type elsewhere is reported below, with the whole structure at hand.
		head.Node.Role = ""
	}
	if head.Node.Role == "" {
		head.Node.Role = Coordinator
	}
	c := Default(head.Node.Role)
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(c)
	if err == nil {
		return c, nil
	}
	var missing *toml.StrictMissingError
	if errors.As(err, &missing) {
		var ps Problems
		for _, e := range missing.Errors {
			line, column := e.Position()
			ps = append(ps, Problem{File: name, Line: line, Column: column, Key: keyPath(e.Key()),
				Message: "unknown key", Hint: suggest(e.Key())})
		}
		return nil, ps
	}
	var syntax *toml.DecodeError
	if errors.As(err, &syntax) {
		line, column := syntax.Position()
		return nil, Problems{{File: name, Line: line, Column: column, Key: keyPath(syntax.Key()),
			Message: strings.TrimPrefix(syntax.Error(), "toml: "), Hint: expected(syntax.Key())}}
	}
	return nil, fmt.Errorf("%s: %w", name, err)
}

// expected says what type a key has.
func expected(key []string) string {
	t, ok := typeOf(key)
	if !ok {
		return ""
	}
	return "want " + describe(t)
}

func describe(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[Duration]():
		return `a duration such as "10s"`
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Slice:
		return `a list such as ["a", "b"]`
	case t.Kind() == reflect.String:
		return "a text in quotes"
	case t.Kind() == reflect.Struct, t.Kind() == reflect.Map:
		return "a table"
	}
	return "a number"
}

// typeOf finds the type of the field that a key names.
func typeOf(key []string) (reflect.Type, bool) {
	t := reflect.TypeFor[Config]()
	for _, part := range key {
		switch t.Kind() {
		case reflect.Map:
			t = t.Elem()
		case reflect.Struct:
			f, ok := field(t, part)
			if !ok {
				return nil, false
			}
			t = f.Type
		default:
			return nil, false
		}
	}
	return t, true
}

func field(t reflect.Type, key string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("toml") == key {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// suggest names the known key that is nearest to an unknown one.
func suggest(key []string) string {
	// The unknown part may stand above the last one.
	for i := range key {
		parent, ok := typeOf(key[:i])
		if !ok || parent.Kind() != reflect.Struct {
			continue
		}
		if _, ok := field(parent, key[i]); ok {
			continue
		}
		best, distance := "", len(key[i])/2+1
		var all []string
		for j := range parent.NumField() {
			name := parent.Field(j).Tag.Get("toml")
			all = append(all, name)
			if d := editDistance(key[i], name); d < distance {
				best, distance = name, d
			}
		}
		if best != "" {
			return fmt.Sprintf("did you mean %q?", best)
		}
		return "known here: " + strings.Join(all, ", ")
	}
	return ""
}

// editDistance is the number of octets to change, add or remove.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// keyPath writes a key as a file would: bare where possible, quoted otherwise.
func keyPath(parts []string) string {
	quoted := slices.Clone(parts)
	for i, part := range quoted {
		if !bare(part) {
			quoted[i] = strconv.Quote(part)
		}
	}
	return strings.Join(quoted, ".")
}

func bare(s string) bool {
	return s != "" && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// where maps the keys of a file to their places.
type where map[string]unstable.Position

// positions finds the keys of a file that has been decoded before. The library offers no other way
// to them than its unstable part; should that change, messages lose their line and nothing else.
func positions(data []byte) where {
	w := where{}
	var p unstable.Parser
	p.Reset(data)
	var table []string
	for p.NextExpression() {
		node := p.Expression()
		var key []string
		var at unstable.Position
		for it := node.Key(); it.Next(); {
			if len(key) == 0 {
				at = p.Shape(it.Node().Raw).Start
			}
			key = append(key, string(it.Node().Data))
		}
		if node.Kind == unstable.KeyValue {
			key = append(slices.Clone(table), key...)
		} else {
			table = key
		}
		w[keyPath(key)] = at
	}
	return w
}

// find returns the place of a key, or of the nearest table above it.
func (w where) find(key string) (unstable.Position, bool) {
	for key != "" {
		if at, ok := w[key]; ok {
			return at, true
		}
		i := strings.LastIndexByte(key, '.')
		if i < 0 {
			break
		}
		key = key[:i]
	}
	return unstable.Position{}, false
}
