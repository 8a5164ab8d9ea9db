package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
)

func newBackup(c *ctl) *cobra.Command {
	return group("backup", "Keep a copy of the map outside the cluster", newBackupSave(c))
}

func newBackupSave(c *ctl) *cobra.Command {
	cmd := &cobra.Command{
		Use: "save FILE", Short: "Write a copy of everything the cluster agrees on", Args: cobra.ExactArgs(1),
		Long: "The file checks itself when it is read. It holds hashes of join tokens, but no keys.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.ask(cmd, func(ctx context.Context, client *admin.Client) error {
				begun := time.Now()
				size, err := saveBackup(ctx, client, args[0])
				if err != nil {
					return err
				}
				c.done(cmd, "saved %s: %d octets in %v", args[0], size, time.Since(begun).Round(time.Millisecond))
				return nil
			})
		},
	}
	return cmd
}

// saveBackup writes beside the file and renames, so that a name never holds half a copy.
func saveBackup(ctx context.Context, client *admin.Client, path string) (int64, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return 0, fmt.Errorf("saving a backup: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := client.Backup(ctx, f); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("saving a backup: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("saving a backup: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return 0, fmt.Errorf("saving a backup: %w", err)
	}
	return info.Size(), nil
}
