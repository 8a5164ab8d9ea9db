package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
	"murder/fsm"
	"murder/internal/mbox"
)

// What can be done with a backup without a cluster.

// backupInfo is what a backup holds.
type backupInfo struct {
	File      string `json:"file"`
	ClusterID string `json:"cluster_id"`
	Index     uint64 `json:"index"`
	Digest    string `json:"digest"`
	Version   uint32 `json:"cluster_version"`
	Mailboxes uint64 `json:"mailboxes"`
	// The rest only a whole reading tells.
	Whole        bool     `json:"whole"`
	Reservations int      `json:"reservations,omitempty"`
	Conflicts    int      `json:"conflicts,omitempty"`
	Nodes        []string `json:"nodes,omitempty"`
}

func newBackupInspect(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "inspect FILE", Short: "Say what a backup is of, reading only its beginning", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := readHeader(args[0])
			if err != nil {
				return err
			}
			i := backupInfo{File: args[0], ClusterID: h.ClusterID, Index: h.Index, Digest: h.Digest.String(), Version: h.ClusterVersion, Mailboxes: h.Mailboxes}
			return c.show(cmd, i, backupTable(i))
		},
	}
}

func readHeader(path string) (h fsm.SnapshotHeader, err error) {
	f, err := os.Open(path)
	if err != nil {
		return h, err
	}
	defer f.Close()
	if h, err = fsm.ReadSnapshotHeader(f); err != nil {
		return h, fmt.Errorf("reading %s: %w", path, err)
	}
	return h, nil
}

func newBackupVerify(c *ctl) *cobra.Command {
	return &cobra.Command{
		Use: "verify FILE", Short: "Read a whole backup and check it", Args: cobra.ExactArgs(1),
		Long: "Checksums, counts and the digest must be right. Exit 1 if the file is damaged.",
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := readBackup(args[0])
			if err != nil {
				return err
			}
			i := backupInfo{File: args[0], ClusterID: v.Setting(fsm.SettingClusterID), Index: v.Index(), Digest: v.Digest().String(),
				Version: v.ClusterVersion(), Mailboxes: uint64(v.Len()), Whole: true}
			for range v.Holds {
				i.Reservations++
			}
			for range v.Conflicts {
				i.Conflicts++
			}
			for n := range v.Nodes {
				i.Nodes = append(i.Nodes, n.ID)
			}
			t := backupTable(i)
			t.Row("reservations", i.Reservations)
			t.Row("conflicts", i.Conflicts)
			t.Row("nodes", join(i.Nodes...))
			t.Foot = "the file is whole"
			return c.show(cmd, i, t)
		},
	}
}

func backupTable(i backupInfo) output.Table {
	t := output.Table{Head: []string{"WHAT", "VALUE"}}
	t.Row("cluster", i.ClusterID)
	t.Row("index", i.Index)
	t.Row("digest", i.Digest)
	t.Row("cluster version", i.Version)
	t.Row("mailboxes", i.Mailboxes)
	return t
}

func readBackup(path string) (*fsm.View, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := fsm.ReadSnapshot(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return m.View(), nil
}

func newBackupExport() *cobra.Command {
	var format, to string
	cmd := &cobra.Command{
		Use: "export FILE --format FORMAT", Short: "Write the mailboxes of a backup as text", Args: cobra.ExactArgs(1),
		Long: "ctl_mboxlist is the text of Cyrus's ctl_mboxlist -d, which a Cyrus master before 3.6 reads with -u and a\n" +
			"later one with -u -L; jsonl is one JSON object a line, as of mailbox list -o json.",
		RunE: func(cmd *cobra.Command, args []string) error {
			write, ok := map[string]func(*fsm.View, io.Writer) error{"ctl_mboxlist": exportMboxlist, "jsonl": exportJSON}[format]
			if !ok {
				return usageError{fmt.Errorf("unknown format %q: want ctl_mboxlist or jsonl", format)}
			}
			v, err := readBackup(args[0])
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if to != "" {
				f, err := os.Create(to)
				if err != nil {
					return err
				}
				defer f.Close()
				out = f
			}
			w := bufio.NewWriter(out)
			if err := write(v, w); err != nil {
				return err
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "`format`: ctl_mboxlist or jsonl")
	cmd.Flags().StringVar(&to, "to", "", "`file` to write instead of standard output")
	cmd.MarkFlagRequired("format")
	return cmd
}

// Cyrus: mbtype in the text of ctl_mboxlist, a sum of bits.
const (
	mbtypeRemote  = 1
	mbtypeReserve = 2
)

// exportMboxlist writes NAME TAB TYPE SP LOCATION SP ACL, as a murder's master has it.
func exportMboxlist(v *fsm.View, w io.Writer) (err error) {
	v.Ascend("", func(e mbox.Entry) bool {
		kind := mbtypeRemote
		if e.State == mbox.Reserved {
			kind |= mbtypeReserve
		}
		_, err = fmt.Fprintf(w, "%s\t%d %s %s\n", e.Name, kind, e.Location, e.ACL)
		return err == nil
	})
	return err
}

func exportJSON(v *fsm.View, w io.Writer) (err error) {
	enc := json.NewEncoder(w)
	v.Ascend("", func(e mbox.Entry) bool {
		err = enc.Encode(admin.MailboxOf(e))
		return err == nil
	})
	return err
}
