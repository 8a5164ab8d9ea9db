package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"murder/cluster"
)

// newRecover is the way back from a quorum that is lost for good. It works on the data directory of a
// stopped coordinator, because there is no cluster to ask.
func newRecover() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Make this stopped coordinator the only voter, after the majority is lost for good",
		Long: "First look at every coordinator that is left, with murderd stopped: the one with the highest\n" +
			"term, and among those the highest index, is the one to go on with. What it holds that was not\n" +
			"yet committed may become so. The others must be emptied and joined anew; frontends come back\n" +
			"by themselves. Without --yes it only looks.",
		Args: cobra.NoArgs,
	}
	file := configFlag(cmd)
	yes := cmd.Flags().Bool("yes", false, "do it")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load(*file)
		if err != nil {
			return err
		}
		d := &daemon{cfg: cfg}
		c := cluster.Config{
			NodeID: cfg.Node.ID, DataDir: cfg.Node.DataDir, Role: cluster.Role(cfg.Node.Role),
			Listen: cfg.Cluster.Listen, Advertise: d.advertise(cfg.Cluster.Listen, cfg.Cluster.Advertise),
		}
		act := cluster.Inspect
		if *yes {
			act = cluster.Recover
		}
		s, err := act(c)
		if err != nil {
			return fmt.Errorf("%w; murderd must not be running on this data directory", err)
		}
		out := cmd.OutOrStdout()
		fmt.Fprintf(out, "cluster %s, node %s: term %d, last index %d, snapshot at %d\n", s.ClusterID, s.NodeID, s.Term, s.LastIndex, s.SnapshotIndex)
		if !*yes {
			fmt.Fprintf(out, "Nothing was changed. If no other coordinator has a higher term and index: murderd recover --yes\n")
			return nil
		}
		fmt.Fprintf(out, "%s votes alone from now on. Next: start murderd, empty %s on the other coordinators, and join them again\n",
			s.NodeID, cfg.Node.DataDir)
		return nil
	}
	return cmd
}
