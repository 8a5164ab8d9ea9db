package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"murder/cluster/logfile"
	"murder/cmd/murderctl/output"
)

// What can be done with the log of a coordinator that is stopped.
func newNodeLog(c *ctl) *cobra.Command {
	return group("log", "Look into the log of a coordinator that is stopped", newLogShow(c), newLogVerify(c), newLogCompact(c))
}

func newLogShow(c *ctl) *cobra.Command {
	cmd := &cobra.Command{
		Use: "show", Short: "Print entries of the log", Args: cobra.NoArgs,
		Long: "Works on the data directory; murderd must not be running on it. Secrets are left out. With -o json there is\n" +
			"one object a line.",
		Example: "  murderctl node log show --from 123456 --limit 20",
	}
	dir := dataDirFlag(cmd)
	from := cmd.Flags().Uint64("from", 0, "begin at this `index`; default: the last entries")
	limit := cmd.Flags().Int("limit", 100, "at most so many `entries`; 0 for all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := logfile.Open(*dir)
		if err != nil {
			return err
		}
		defer f.Close()
		start := *from
		if start == 0 && *limit > 0 && f.Last >= uint64(*limit) {
			start = f.Last - uint64(*limit) + 1
		}
		enc := json.NewEncoder(cmd.OutOrStdout())
		t := output.Table{Head: []string{"INDEX", "TERM", "KIND", "AT", "OCTETS", "WHAT"}}
		shown := 0
		f.Each(start, func(e logfile.Entry) bool {
			if c.format == string(output.JSONFormat) {
				err = enc.Encode(e)
			} else {
				t.Row(e.Index, e.Term, e.Kind, stamp(e.At), e.Octets, gist(e))
			}
			shown++
			return err == nil && (*limit == 0 || shown < *limit)
		})
		if err != nil || c.format == string(output.JSONFormat) {
			return err
		}
		t.Foot = fmt.Sprintf("the log goes from %d to %d", f.First, f.Last)
		return c.show(cmd, nil, t)
	}
	return cmd
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime)
}

// gist is an entry in a few words.
func gist(e logfile.Entry) string {
	if e.Damage != "" {
		return "DAMAGED: " + e.Damage
	}
	var words []string
	for _, cmd := range e.Commands[:min(len(e.Commands), 3)] {
		words = append(words, strings.Join(strings.Fields(cmd.Type+" "+cmd.Name+" "+cmd.What), " "))
	}
	if more := len(e.Commands) - len(words); more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, "; ")
}

// logReport is what node log verify -o json prints.
type logReport struct {
	First    uint64          `json:"first"`
	Last     uint64          `json:"last"`
	Snapshot uint64          `json:"snapshot"`
	Entries  uint64          `json:"entries"`
	Commands uint64          `json:"commands"`
	Damaged  uint64          `json:"damaged"`
	Damage   []logfile.Entry `json:"damage,omitempty"` // the first of them
}

// maxDamage is how many damaged entries are shown.
const maxDamage = 20

func newLogVerify(c *ctl) *cobra.Command {
	cmd := &cobra.Command{
		Use: "verify", Short: "Read the whole log and check it", Args: cobra.NoArgs,
		Long: "Works on the data directory; murderd must not be running on it. Exit 1 if anything is damaged. murderd does\n" +
			"the same when it starts.",
	}
	dir := dataDirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := logfile.Open(*dir)
		if err != nil {
			return err
		}
		defer f.Close()
		r := logReport{First: f.First, Last: f.Last, Snapshot: f.Snapshot}
		f.Each(0, func(e logfile.Entry) bool {
			r.Entries++
			r.Commands += uint64(len(e.Commands))
			if e.Damage != "" {
				if r.Damaged++; r.Damaged <= maxDamage {
					r.Damage = append(r.Damage, e)
				}
			}
			return true
		})
		t := output.Table{Head: []string{"WHAT", "VALUE"}, Foot: "the log is whole"}
		t.Row("first index", r.First)
		t.Row("last index", r.Last)
		t.Row("newest snapshot", r.Snapshot)
		t.Row("entries", r.Entries)
		t.Row("commands", r.Commands)
		t.Row("damaged", r.Damaged)
		for _, e := range r.Damage {
			t.Row(fmt.Sprintf("entry %d", e.Index), e.Damage)
		}
		if r.Damaged > 0 {
			t.Foot = "the log is damaged: remove the node with murderctl member remove on another, empty its data directory, and join it again"
		}
		if err := c.show(cmd, r, t); err != nil {
			return err
		}
		if r.Damaged > 0 {
			return exitCode(1)
		}
		return nil
	}
	return cmd
}

func newLogCompact(c *ctl) *cobra.Command {
	cmd := &cobra.Command{
		Use: "compact", Short: "Give back the room that the log's file does not need any more", Args: cobra.NoArgs,
		Long: "Works on the data directory; murderd must not be running on it. The file never shrinks by itself. It is\n" +
			"written anew, so that there must be room for what it holds, and takes the place of the old one when it is\n" +
			"whole.",
	}
	dir := dataDirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := logfile.Compact(*dir)
		if err != nil {
			return err
		}
		t := output.Table{Head: []string{"OCTETS BEFORE", "AFTER"}}
		t.Row(s.Before, s.After)
		return c.show(cmd, s, t)
	}
	return cmd
}
