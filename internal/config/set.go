package config

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Set changes one key: "cluster.timing", "mupdate.identities.be1.role". The value is written as in a
// file, or without quotes; several texts of a list are separated by commas.
func (c *Config) Set(key, value string) error {
	parts, err := splitKey(key)
	if err != nil {
		return err
	}
	t, ok := typeOf(parts)
	if !ok {
		return Problems{{File: "--set", Key: key, Message: "unknown key", Hint: suggest(parts)}}
	}
	if !isValue(t) {
		return Problems{{File: "--set", Key: key, Message: "is a table", Hint: "name a key in it"}}
	}
	candidates := []string{value, quote(value)}
	if t.Kind() == reflect.Slice && !strings.HasPrefix(value, "[") {
		var items []string
		for item := range strings.SplitSeq(value, ",") {
			if item != "" {
				items = append(items, quote(item))
			}
		}
		candidates = []string{"[" + strings.Join(items, ",") + "]"}
	}
	for _, text := range candidates {
		line := keyPath(parts) + " = " + text + "\n"
		// Decode into a copy first: half a change must not stay.
		if err = toml.NewDecoder(strings.NewReader(line)).Decode(Default(c.Node.Role)); err == nil {
			return toml.NewDecoder(bytes.NewReader([]byte(line))).Decode(c)
		}
	}
	return Problems{{File: "--set", Key: key, Message: fmt.Sprintf("%q does not fit", value), Hint: "want " + describe(t)}}
}

// splitKey reads a key as TOML does: backends.servers."be1.example.org".host.
func splitKey(key string) ([]string, error) {
	var doc map[string]any
	if err := toml.Unmarshal([]byte(key+" = 0\n"), &doc); err != nil || len(doc) != 1 {
		return nil, Problems{{File: "--set", Key: key, Message: "is no key", Hint: "write it like cluster.timing"}}
	}
	var parts []string
	for doc != nil {
		var next map[string]any
		for name, v := range doc {
			parts = append(parts, name)
			next, _ = v.(map[string]any)
		}
		doc = next
	}
	return parts, nil
}
