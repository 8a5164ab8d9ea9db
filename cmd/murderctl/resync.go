package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"murder/cluster/admin"
	"murder/cmd/murderctl/output"
)

// resyncResult is what came of one backend; resync -o json prints a list of them.
type resyncResult struct {
	Server  string  `json:"server"`
	Command string  `json:"command"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

const defaultResync = `ssh {server} "su cyrus -s /bin/sh -c '/usr/sbin/ctl_mboxlist -m'"`

func newResync(c *ctl) *cobra.Command {
	cmd := &cobra.Command{
		Use: "resync {--all | SERVER...}", Short: "Let backends tell again what mailboxes they hold",
		Long: "Runs ctl_mboxlist -m on them, one after the other, with a command of yours: the map is made of what they say.\n" +
			"A backend that is told that another one holds a mailbox removes its own copy, so that conflicts are to be\n" +
			"decided first (murderctl doctor). What fails is reported in the end; the others go on.",
		Example: "  murderctl resync --all\n" +
			"  murderctl resync be1.example.org --exec 'ssh root@{server} /usr/lib/cyrus/bin/ctl_mboxlist -m' --yes",
	}
	f := cmd.Flags()
	all := f.Bool("all", false, "every backend that the map or a frontend knows")
	line := f.String("exec", defaultResync, "`command` for the shell that does it; {server} is replaced")
	limit := f.Duration("server-timeout", time.Hour, "give up when a backend takes longer")
	yes := yesFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *all == (len(args) > 0) {
			return usageError{fmt.Errorf("name backends or, with --all, take every one")}
		}
		servers := args
		if *all {
			if err := c.ask(cmd, func(ctx context.Context, client *admin.Client) (err error) {
				servers, err = backendNames(ctx, client)
				return err
			}); err != nil {
				return err
			}
		}
		for _, s := range servers {
			if !plainHost.MatchString(s) {
				return fmt.Errorf("server %q is not fit for a command line", s)
			}
		}
		if err := confirm(cmd, *yes, fmt.Sprintf("on %d backends (%s), one after the other: %s", len(servers), strings.Join(servers, ", "), *line)); err != nil {
			return err
		}
		t := output.Table{Head: []string{"SERVER", "SECONDS", "RESULT"}}
		results, failed := []resyncResult{}, 0
		for _, s := range servers {
			fmt.Fprintln(cmd.ErrOrStderr(), "resync of "+s)
			r := resync(cmd.Context(), s, strings.ReplaceAll(*line, "{server}", s), *limit)
			results = append(results, r)
			result := "done"
			if r.Error != "" {
				failed++
				result = r.Error
			}
			t.Row(s, r.Seconds, result)
			if cmd.Context().Err() != nil {
				break
			}
		}
		t.Foot = fmt.Sprintf("%d of %d backends are done", len(results)-failed, len(servers))
		if err := c.show(cmd, results, t); err != nil {
			return err
		}
		if failed > 0 || len(results) < len(servers) {
			return exitCode(1)
		}
		return nil
	}
	return cmd
}

func backendNames(ctx context.Context, client *admin.Client) ([]string, error) {
	list, err := client.Backends(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, b := range list.Backends {
		names = append(names, b.Server)
	}
	if len(names) == 0 {
		return nil, &admin.Error{Message: "the map knows no backends", Hint: "name them: murderctl resync SERVER..."}
	}
	slices.Sort(names)
	return names, nil
}

// tail keeps the end of what a command says.
type tail []byte

const maxComplaint = 400 // octets

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p[max(0, len(p)-maxComplaint):]...)
	*t = slices.Delete(*t, 0, max(0, len(*t)-maxComplaint))
	return len(p), nil
}

func resync(ctx context.Context, server, line string, limit time.Duration) resyncResult {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begun := time.Now()
	var said tail
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second // what it has started may hold the pipe
	err := cmd.Run()
	r := resyncResult{Server: server, Command: line, Seconds: time.Since(begun).Round(time.Millisecond).Seconds()}
	if err != nil {
		r.Error = strings.TrimSpace(err.Error() + ": " + strings.TrimSpace(string(said)))
	}
	return r
}
