package main

import (
	"github.com/spf13/cobra"

	"murder/proxy/imap"
)

func newVerbsReference() *cobra.Command {
	return &cobra.Command{
		Use: "imap-verbs", Short: "Write docs/imap-verbs.md", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return imap.WriteVerbs(cmd.OutOrStdout()) },
	}
}
