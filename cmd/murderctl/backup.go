package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
	"murder/internal/atomicfile"
)

func newBackup(c *ctl) *cobra.Command {
	return group("backup", "Keep a copy of the map outside the cluster", newBackupSave(c), newBackupInspect(c), newBackupVerify(c), newBackupExport(), newBackupRestore(c))
}

func newBackupSave(c *ctl) *cobra.Command {
	cmd := &cobra.Command{
		Use: "save FILE", Short: "Write a copy of everything the cluster agrees on", Args: cobra.ExactArgs(1),
		Long: "The file checks itself when it is read. It holds hashes of join tokens, but no keys. \"{index}\" in FILE\n" +
			"becomes the index of the log that the copy is of.",
		Example: "  murderctl backup save /var/backups/murder-{index}.snapshot",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.stream(cmd, c.timeout, func(ctx context.Context, client *admin.Client, arrived func()) error {
				begun := time.Now()
				s, err := saveBackup(ctx, client, args[0], arrived)
				if err != nil {
					return err
				}
				t := output.Table{Head: []string{"FILE", "INDEX", "OCTETS"}, Foot: fmt.Sprintf("saved in %v", time.Since(begun).Round(time.Millisecond))}
				t.Row(s.File, s.Index, s.Octets)
				return c.show(cmd, s, t)
			})
		},
	}
	return cmd
}

// savedBackup is what backup save -o json prints.
type savedBackup struct {
	File   string `json:"file"`
	Index  uint64 `json:"index"`
	Octets int64  `json:"octets"`
}

// indexMark in the name of a backup stands for its index.
const indexMark = "{index}"

// saveBackup writes under a name that says that the index is not known yet, if it is to be in the name.
func saveBackup(ctx context.Context, client *admin.Client, path string, arrived func()) (s savedBackup, err error) {
	part := strings.ReplaceAll(path, indexMark, "unfinished")
	s.Octets, err = atomicfile.Write(part, 0o600, func(w io.Writer) error { return client.Backup(ctx, movingWriter{w, arrived}) })
	if err != nil {
		return s, fmt.Errorf("saving a backup: %w", err)
	}
	h, err := readHeader(part)
	if err != nil {
		return s, err
	}
	s.Index, s.File = h.Index, strings.ReplaceAll(path, indexMark, strconv.FormatUint(h.Index, 10))
	if s.File == part {
		return s, nil
	}
	return s, os.Rename(part, s.File)
}

func newBackupRestore(c *ctl) *cobra.Command {
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Make the map like a copy that was saved", Args: cobra.ExactArgs(1),
		Long: "First it shows what would change; with --yes it changes it. Names that are being created or moved\n" +
			"at the moment, or that change meanwhile, are left alone. Backends are not asked: where they know better, run ctl_mboxlist -m.",
	}
	yes := yesFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.stream(cmd, c.timeout, func(ctx context.Context, client *admin.Client, moved func()) error {
			report, err := restore(ctx, client, args[0], false, moved)
			if err != nil {
				return err
			}
			plan := fmt.Sprintf("the map at index %d would become what it was at %d: %d added, %d changed, %d deleted, %d left alone",
				report.Index, report.BackupIndex, report.Adds, report.Changes, report.Deletes, report.Skipped)
			if err := confirm(cmd, *yes, plan); err != nil {
				return err
			}
			if report, err = restore(ctx, client, args[0], true, moved); err != nil {
				return err
			}
			t := output.Table{Head: []string{"ADDED", "CHANGED", "DELETED", "LEFT ALONE"}}
			t.Row(report.Adds, report.Changes, report.Deletes, report.Skipped)
			if n := report.Skipped; n > 0 && len(report.LeftAlone) > 0 {
				t.Foot = "left alone, because somebody is at work on them: " + strings.Join(report.LeftAlone, ", ")
				if n > len(report.LeftAlone) {
					t.Foot += ", ..."
				}
			}
			return c.show(cmd, report, t)
		})
	}
	return cmd
}

func restore(ctx context.Context, client *admin.Client, path string, apply bool, moved func()) (admin.RestoreReport, error) {
	f, err := os.Open(path)
	if err != nil {
		return admin.RestoreReport{}, fmt.Errorf("restoring: %w", err)
	}
	defer f.Close()
	return client.Restore(ctx, movingReader{f, moved}, apply)
}
