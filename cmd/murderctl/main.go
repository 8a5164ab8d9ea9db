// Murderctl is the operator's tool. It talks to one node's admin interface, by unix socket on the same
// host or by TCP, and the node finds whoever else is needed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
	"murder/internal/clidoc"
	"murder/internal/config"
)

// version is set by the linker.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main with an exit code: 0, 1 for a failure, 2 for a wrong command line, or what the command
// says itself.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var code exitCode
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	fmt.Fprintln(stderr, "murderctl: "+err.Error())
	if hint := hintFor(err); hint != "" {
		fmt.Fprintln(stderr, "hint: "+hint)
	}
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}

// exitCode ends the program with a code of its own; everything has been said already.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// usageError is a command line that makes no sense.
type usageError struct{ error }

// ctl is what every command needs.
type ctl struct {
	addr    string
	format  string
	timeout time.Duration
}

func newRoot() *cobra.Command {
	var c ctl
	root := &cobra.Command{
		Use:   "murderctl",
		Short: "Look after a murder cluster",
		Long: "murderctl asks one node, by default the one on this host. Any node will do: it finds the leader.\n" +
			"Commands that destroy something show what they are about to do, and do it with --yes.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version,
	}
	root.SetVersionTemplate(fmt.Sprintf("murderctl %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH))
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; \"%s --help\" lists the flags", err, cmd.CommandPath())}
	})
	flags := root.PersistentFlags()
	addr := os.Getenv("MURDER_ADMIN")
	if addr == "" {
		addr = config.DefaultSocket
	}
	flags.StringVar(&c.addr, "addr", addr, "admin interface: `path` of a socket, or host:port (environment: MURDER_ADMIN)")
	flags.StringVar(&c.addr, "admin", addr, "the same as --addr")
	flags.MarkHidden("admin")
	flags.StringVarP(&c.format, "output", "o", "table", "`format` of the answer: table, wide, plain or json")
	flags.DurationVar(&c.timeout, "timeout", 10*time.Second, "give up after this `time`; where much is sent or done, after so long without a sign of life")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if _, err := output.ParseFormat(c.format); err != nil {
			return usageError{err}
		}
		return nil
	}
	root.AddCommand(newCluster(&c), newMember(&c), newNode(&c), newMailbox(&c), newBackup(&c), newUser(&c), newWait(&c),
		newDoctor(&c), newSession(&c), newBackend(&c), newMUPDATE(&c), newWatch(&c), newCheck(&c), newResync(&c),
		clidoc.Command(root, "8"))
	return root
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usageError{fmt.Errorf("unknown command %q; \"%s --help\" lists the commands", args[0], cmd.CommandPath())}
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

// ask runs f with a client and a deadline.
func (c *ctl) ask(cmd *cobra.Command, f func(context.Context, *admin.Client) error) error {
	client, err := admin.NewClient(c.addr, nil)
	if err != nil {
		return usageError{err}
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
	defer cancel()
	return f(ctx, client)
}

// show prints a result in the format wanted.
func (c *ctl) show(cmd *cobra.Command, value any, t output.Table) error {
	return output.Print(cmd.OutOrStdout(), output.Format(c.format), value, t)
}

// done says that something has been done, for people.
func (c *ctl) done(cmd *cobra.Command, format string, args ...any) {
	if output.Format(c.format).ForPeople() {
		fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...)
	}
}

// hintFor says what to try next, unless the error does so itself.
func hintFor(err error) string {
	var answer *admin.Error
	var op *net.OpError
	switch {
	case errors.As(err, &answer), errors.As(err, new(usageError)):
		return ""
	case errors.Is(err, fs.ErrPermission):
		return "the admin socket belongs to root and the murder user: use sudo"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return "is murderd running on this host? \"systemctl status murderd\"; another node: --addr HOST:7403"
	case errors.Is(err, context.DeadlineExceeded):
		return "a cluster without a majority cannot answer: \"murderctl cluster status\" shows who is missing; --timeout waits longer"
	case errors.As(err, &op):
		return "check --addr"
	}
	return ""
}

// confirm shows what is about to happen and goes on only with --yes.
func confirm(cmd *cobra.Command, yes bool, plan string) error {
	fmt.Fprintln(cmd.ErrOrStderr(), plan)
	if yes {
		return nil
	}
	return fmt.Errorf("nothing was done: repeat with --yes to do it")
}

func yesFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("yes", false, "do it, after showing what will happen")
}

func join(parts ...string) string {
	var kept []string
	for _, p := range parts {
		if p != "" {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, ", ")
}
