// Murderd is the daemon: a coordinator that keeps the mailbox map, a frontend that serves mail
// clients from a copy of it, both, or an agent beside a Cyrus backend.
//
// This is the only program that knows all the rooms; serve.go joins them in the order in which they
// start, shutdown.go lists the order in which they stop.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"murder/cluster"
	"murder/internal/clidoc"
	"murder/internal/config"
	"murder/internal/obs"
)

// version is set by the linker.
var version = "devel"

func main() { os.Exit(run(os.Args[1:])) }

// run is main with an exit code: 0, 1 for a failure, 2 for a wrong command line, or the cluster's.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "murderd: "+err.Error())
	var usage usageError
	var old *cluster.VersionError
	var coded interface{ ExitCode() int }
	switch {
	case errors.As(err, &usage):
		return 2
	case errors.As(err, &old):
		return cluster.ExitVersion
	case errors.As(err, &coded):
		return coded.ExitCode()
	}
	return 1
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "murderd",
		Short: "Keep the mailbox map of a Cyrus Murder, and serve mail clients from it",
		Long: "murderd replaces the MUPDATE master and the frontends of a Cyrus Murder.\n" +
			"\"murderd dev\" shows a whole cluster on this machine; \"murderd --config FILE\" runs one node.",
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; \"%s --help\" lists the flags", err, cmd.CommandPath())}
	})
	serve := newServe()
	// murderd --config FILE is murderd serve --config FILE.
	root.Flags().AddFlagSet(serve.Flags())
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().NFlag() == 0 {
			return cmd.Help()
		}
		return serve.RunE(cmd, args)
	}
	root.AddCommand(serve, newConfig(), newRecover(), newDev(), newDemoBackend(), newVersion(), newMetricsReference(), newVerbsReference(), clidoc.Command(root, "8"))
	return root
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say what this program was built from",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "murderd %s (%s, %s, %s/%s)\n",
				version, obs.Revision(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// configFlag is the flag of every command that reads the file.
func configFlag(cmd *cobra.Command) *string {
	file := cmd.Flags().StringP("config", "c", config.DefaultFile, "configuration `file`")
	cmd.MarkFlagFilename("config", "toml")
	return file
}
