// Package output prints what a command found: as a table for people, as plain tab-separated lines for
// shell scripts, or as JSON whose fields are those of package admin and stay.
package output

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Format is how to print.
type Format string

const (
	TableFormat Format = "table"
	WideFormat  Format = "wide" // a table with more columns, where there are any
	PlainFormat Format = "plain"
	JSONFormat  Format = "json"
)

// ParseFormat reads the value of -o.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case TableFormat, WideFormat, PlainFormat, JSONFormat:
		return f, nil
	}
	return "", fmt.Errorf("unknown output format %q: want table, wide, plain or json", s)
}

// ForPeople reports whether a person reads what is printed.
func (f Format) ForPeople() bool { return f == TableFormat || f == WideFormat }

// Table is a result as rows.
type Table struct {
	Head []string
	Rows [][]string
	// Foot is for people only: a sentence below the table.
	Foot string
}

// Row adds a row; values are printed with %v, and an empty one as "-".
func (t *Table) Row(values ...any) {
	row := make([]string, len(values))
	for i, v := range values {
		row[i] = fmt.Sprint(v)
	}
	t.Rows = append(t.Rows, row)
}

// Print writes value as JSON, or its table.
func Print(w io.Writer, f Format, value any, t Table) error {
	switch f {
	case JSONFormat:
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(value)
	case PlainFormat:
		for _, row := range t.Rows {
			if _, err := fmt.Fprintln(w, strings.Join(row, "\t")); err != nil {
				return err
			}
		}
		return nil
	}
	if len(t.Rows) > 0 {
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		if len(t.Head) > 0 {
			fmt.Fprintln(tw, strings.Join(t.Head, "\t"))
		}
		for _, row := range t.Rows {
			for i, cell := range row {
				if cell == "" {
					row[i] = "-"
				}
			}
			fmt.Fprintln(tw, strings.Join(row, "\t"))
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	if t.Foot != "" {
		_, err := fmt.Fprintln(w, t.Foot)
		return err
	}
	return nil
}
