package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"murder/cluster"
)

// newRecover is the way back from a quorum that is lost for good. It works on the data directory of a
// stopped coordinator, because there is no cluster to ask.
func newRecover() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recover [FILE...]",
		Short: "Make this stopped coordinator the only voter, after the majority is lost for good",
		Long: "First run it with --json on every coordinator that is left, with murderd stopped, and bring what it\n" +
			"writes together, a FILE each. With these it shows which of them is to go on: the one with the highest\n" +
			"term, and among those the highest index. There, run it with the files of the others and --yes. What\n" +
			"it holds that was not yet committed may become so. The others must be emptied and joined anew: with\n" +
			"their old data they are refused. Frontends come back by themselves.",
		Example: "  murderd recover --json >c2.json     # on each\n" +
			"  murderd recover c2.json             # which one?\n" +
			"  murderd recover c2.json --yes       # on that one",
	}
	file := configFlag(cmd)
	yes := cmd.Flags().Bool("yes", false, "do it")
	force := cmd.Flags().Bool("force", false, "do it although another is further: what only that one has is lost")
	asJSON := cmd.Flags().Bool("json", false, "write what is here for another coordinator; nothing is changed")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := load(*file)
		if err != nil {
			return err
		}
		d := &daemon{cfg: cfg}
		c := cluster.Config{
			NodeID: cfg.Node.ID, DataDir: cfg.Node.DataDir, Role: cluster.Role(cfg.Node.Role),
			Listen: cfg.Cluster.Listen, Advertise: d.advertise(cfg.Cluster.Listen, cfg.Cluster.Advertise),
		}
		here, err := cluster.Inspect(c)
		if err != nil {
			return fmt.Errorf("%w; murderd must not be running on this data directory", err)
		}
		out := cmd.OutOrStdout()
		if *asJSON {
			return json.NewEncoder(out).Encode(here)
		}
		others, err := survivors(args, here)
		if err != nil {
			return err
		}
		best := tellSurvivors(out, here, others)
		switch {
		case best.NodeID != here.NodeID && !*force:
			fmt.Fprintf(out, "Nothing was changed. Go on at %s: it has what %s lacks.\n", best.NodeID, here.NodeID)
			if *yes {
				return fmt.Errorf("node %s is not the one to go on with: run this on %s, or use --force if that is lost, too", here.NodeID, best.NodeID)
			}
			return nil
		case !*yes && len(others) == 0:
			fmt.Fprintln(out, "Nothing was changed. If no other coordinator has a higher term and index: murderd recover --yes")
			return nil
		case !*yes:
			fmt.Fprintf(out, "Nothing was changed. If these are all that are left, go on here: the same with --yes\n")
			return nil
		}
		if _, err = cluster.Recover(c); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s votes alone from now on. Next: start murderd, empty %s on the other coordinators, and join them again\n",
			here.NodeID, cfg.Node.DataDir)
		return nil
	}
	return cmd
}

// survivors reads what other coordinators wrote.
func survivors(files []string, here cluster.Survivor) ([]cluster.Survivor, error) {
	var list []cluster.Survivor
	for _, f := range files {
		data, err := os.ReadFile(f)
		var s cluster.Survivor
		if err == nil {
			err = json.Unmarshal(data, &s)
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("reading %s: %w", f, err)
		case s.NodeID == "":
			return nil, fmt.Errorf("%s is not what murderd recover --json writes", f)
		case s.ClusterID != here.ClusterID:
			return nil, fmt.Errorf("%s is of cluster %s, and this node of %s", f, s.ClusterID, here.ClusterID)
		case s.NodeID == here.NodeID:
			return nil, fmt.Errorf("%s is of this node itself", f)
		}
		list = append(list, s)
	}
	return list, nil
}

// tellSurvivors writes a table and returns the one to go on with; this node if others are only as far.
func tellSurvivors(out io.Writer, here cluster.Survivor, others []cluster.Survivor) cluster.Survivor {
	best := here
	for _, s := range others {
		if s.Further(best) {
			best = s
		}
	}
	fmt.Fprintf(out, "cluster %s\n", here.ClusterID)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tEPOCH\tTERM\tLAST INDEX\tSNAPSHOT AT\t")
	for _, s := range append([]cluster.Survivor{here}, others...) {
		mark := ""
		if s.NodeID == best.NodeID {
			mark = "the furthest"
		}
		if s.Diverged {
			mark = strings.TrimPrefix(mark+", its copy was found wrong", ", ")
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\n", s.NodeID, s.Epoch, s.Term, s.LastIndex, s.SnapshotIndex, mark)
	}
	w.Flush()
	return best
}
