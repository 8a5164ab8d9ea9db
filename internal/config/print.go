package config

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// sample stands for the name of a table that the operator chooses.
const sample = "NAME"

// entry is one key, or one table if it holds further entries.
type entry struct {
	key   []string
	doc   string
	table bool
	value reflect.Value
	def   reflect.Value
}

// walk visits the keys of c in the order of the structure, beside their defaults. Tables come before
// what they hold, values of a table before tables in it.
func walk(v, def reflect.Value, key []string, doc string, visit func(entry)) {
	visit(entry{key: key, doc: doc, table: true})
	var tables []func()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		at := append(slices.Clone(key), f.Tag.Get("toml"))
		text := f.Tag.Get("doc")
		value, fdef := v.Field(i), def.Field(i)
		switch kind := f.Type.Kind(); {
		case kind == reflect.Struct && !isValue(f.Type):
			tables = append(tables, func() { walk(value, fdef, at, text, visit) })
		case kind == reflect.Map:
			tables = append(tables, func() {
				zero := reflect.Zero(f.Type.Elem())
				for _, name := range slices.Sorted(maps.Keys(mapKeys(value))) {
					walk(value.MapIndex(reflect.ValueOf(name)), zero, append(slices.Clone(at), name), text, visit)
				}
			})
		default:
			visit(entry{key: at, doc: text, value: value, def: fdef})
		}
	}
	for _, t := range tables {
		t()
	}
}

// isValue reports whether a type is written as one value, not as a table.
func isValue(t reflect.Type) bool {
	return t == reflect.TypeFor[Duration]() || t.Kind() != reflect.Struct && t.Kind() != reflect.Map
}

func mapKeys(m reflect.Value) map[string]bool {
	keys := map[string]bool{}
	for _, k := range m.MapKeys() {
		keys[k.String()] = true
	}
	return keys
}

// Dump writes the configuration as a file: all of it, or only what differs from the defaults of its
// role. Secrets are left out unless secrets is set.
func (c *Config) Dump(w io.Writer, changedOnly, secrets bool) error {
	def := Default(c.Node.Role)
	var b strings.Builder
	var pending string
	walk(reflect.ValueOf(*c), reflect.ValueOf(*def), nil, "", func(e entry) {
		if e.table {
			if pending = ""; len(e.key) > 0 {
				pending = "[" + keyPath(e.key) + "]\n"
			}
			return
		}
		name := e.key[len(e.key)-1]
		same := reflect.DeepEqual(e.value.Interface(), e.def.Interface())
		// Role decides on the defaults, so a reader needs it whatever it is.
		if same && changedOnly && !slices.Equal(e.key, []string{"node", "role"}) {
			return
		}
		text := literal(e.value)
		if name == "password" && !secrets {
			if e.value.IsZero() {
				return
			}
			text = `"(hidden)"`
		}
		if pending != "" {
			if b.Len() > 0 {
				b.WriteByte('\n')
			}
			b.WriteString(pending)
			pending = ""
		}
		fmt.Fprintf(&b, "%s = %s\n", name, text)
	})
	_, err := io.WriteString(w, b.String())
	return err
}

// Example writes a file with every key of a role, its meaning and its default, commented out.
func Example(w io.Writer, role string) error {
	c := withSamples(Default(role))
	var b strings.Builder
	b.WriteString("# Configuration of murderd. Every key stands here with its default; remove the \"#\" of what you change.\n")
	walk(reflect.ValueOf(*c), reflect.ValueOf(*c), nil, "", func(e entry) {
		switch {
		case e.table && len(e.key) == 0:
		case e.table:
			b.WriteString("\n" + comment(e.doc))
			head := "[" + keyPath(e.key) + "]\n"
			if slices.Contains(e.key, sample) {
				head = "#" + head // it would make an entry called NAME
			}
			b.WriteString(head)
		default:
			value := literal(e.value)
			if slices.Equal(e.key, []string{"node", "id"}) {
				value = `"c1"`
			}
			b.WriteString(comment(e.doc))
			fmt.Fprintf(&b, "#%s = %s\n", e.key[len(e.key)-1], value)
		}
	})
	_, err := io.WriteString(w, b.String())
	return err
}

// Reference writes every key as Markdown.
func Reference(w io.Writer) error {
	// A frontend's defaults have the most listeners.
	c := withSamples(Default(Frontend))
	var b strings.Builder
	b.WriteString("# Configuration\n\n" +
		"One TOML file, `/etc/murder/murderd.toml`. Missing keys keep their defaults, unknown keys are errors.\n" +
		"`murderd config check` reads a file, `murderd config dump --changed` shows what differs from the defaults,\n" +
		"`murderd config example` writes a commented one. This page is made from the source by `make docs`;\n" +
		"the listeners are those of a frontend: coordinators and agents have only MUPDATE's.\n")
	walk(reflect.ValueOf(*c), reflect.ValueOf(*c), nil, "", func(e entry) {
		switch {
		case e.table && len(e.key) == 0:
		case e.table && len(e.key) == 1 && len(typeFields(e.key)) == 0:
			fmt.Fprintf(&b, "\n## [%s]\n\n%s\n", keyPath(e.key), e.doc)
		case e.table:
			fmt.Fprintf(&b, "\n## [%s]\n\n%s\n\n| Key | Default | Meaning |\n|---|---|---|\n", keyPath(e.key), e.doc)
		default:
			value := "`" + literal(e.value) + "`"
			if slices.Equal(e.key, []string{"node", "id"}) {
				value = ""
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", e.key[len(e.key)-1], value, e.doc)
		}
	})
	_, err := io.WriteString(w, b.String())
	return err
}

// typeFields returns the keys of a table that are no tables.
func typeFields(key []string) []string {
	t, _ := typeOf(key)
	var names []string
	for i := range t.NumField() {
		if isValue(t.Field(i).Type) {
			names = append(names, t.Field(i).Tag.Get("toml"))
		}
	}
	return names
}

// withSamples adds one entry to each table whose names the operator chooses.
func withSamples(c *Config) *Config {
	c.Backends.Servers = map[string]Backend{sample: {}}
	c.MUPDATE.Identities = map[string]Identity{sample: {}}
	c.MUPDATE.Peers = map[string]PeerSettings{sample: {}}
	c.Socketmap.Tables = map[string]Table{sample: {}}
	c.IMAP.Place = map[string]PlaceRule{sample: {}}
	return c
}

// comment breaks a text into lines that begin with "# ".
func comment(text string) string {
	var b strings.Builder
	line := "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > 100 {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
	return b.String()
}

// literal writes a value as TOML.
func literal(v reflect.Value) string {
	if d, ok := v.Interface().(Duration); ok {
		return quote(d.String())
	}
	switch v.Kind() {
	case reflect.String:
		return quote(v.String())
	case reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = literal(v.Index(i))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return fmt.Sprint(v.Interface())
}

// quote writes a basic string; the escapes of JSON are among those of TOML.
func quote(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return `""`
	}
	return strings.ReplaceAll(strings.TrimSuffix(b.String(), "\n"), "\x7f", `\u007f`)
}
