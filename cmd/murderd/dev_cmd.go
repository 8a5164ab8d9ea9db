package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"murder/cmd/murderd/dev"
)

// devPassword is that of every account of a trial cluster, unless a flag says otherwise.
const devPassword = "labpass"

func newDev() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev --dir DIR",
		Short: "Run a whole cluster on this machine",
		Long: "Run coordinators, frontends and small demo backends, each as a process of its own with its\n" +
			"configuration, data and log below DIR. DIR/env has the addresses, for scripts. Passwords may\n" +
			"cross the loopback in clear; nothing of this is meant for others to reach.",
		Args: cobra.NoArgs,
	}
	o := dev.Options{Version: version}
	f := cmd.Flags()
	f.StringVar(&o.Dir, "dir", "", "directory for configurations, data and logs")
	f.IntVar(&o.Coordinators, "coordinators", 3, "how many coordinators")
	f.IntVar(&o.Frontends, "frontends", 1, "how many frontends")
	f.IntVar(&o.DemoBackends, "demo-backends", 2, "how many embedded backends; 0 with --backend")
	f.StringVar(&o.Net, "net", "127.91.1", "first three `parts` of every address")
	f.BoolVar(&o.Tour, "tour", false, "play the guided tour, then stay")
	f.BoolVar(&o.Once, "once", false, "leave after the tour; exit 0 only if every step was as promised")
	proxy := f.String("proxy", "murder:"+devPassword, "identity towards backends, `NAME:PASSWORD`")
	backends := f.StringArray("backend", nil, "real backend, `NAME=HOST[,imap=PORT][,lmtp=PORT][,pop3=PORT][,sieve=PORT]`; repeatable")
	admins := f.StringArray("admin", []string{"cyrus:" + devPassword}, "administrator of MUPDATE and IMAP, `NAME:PASSWORD`; repeatable")
	bound := f.StringArray("mupdate-backend", nil, "MUPDATE identity for some servers, `NAME:PASSWORD=SERVER[,SERVER]`; repeatable")
	readers := f.StringArray("mupdate-reader", nil, "MUPDATE identity that may only read, `NAME:PASSWORD`; repeatable")
	users := f.StringArray("user", devUsers(), "end user, `NAME:PASSWORD`; repeatable")
	f.StringArrayVar(&o.Set, "set", nil, "configuration key for every node, `KEY=VALUE`, or for one, NODE/KEY=VALUE; repeatable")
	cmd.MarkFlagDirname("dir")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		o.Out = cmd.OutOrStdout()
		if o.Program, err = os.Executable(); err != nil {
			return err
		}
		if len(*backends) > 0 && !f.Changed("demo-backends") {
			o.DemoBackends = 0
		}
		if o.Backends, err = parseAll("--backend", *backends, dev.ParseBackend); err != nil {
			return err
		}
		if o.Admins, err = parseAll("--admin", *admins, dev.ParseAccount); err != nil {
			return err
		}
		if o.MUPDATEBackends, err = parseAll("--mupdate-backend", *bound, dev.ParseBound); err != nil {
			return err
		}
		if o.MUPDATEReaders, err = parseAll("--mupdate-reader", *readers, dev.ParseAccount); err != nil {
			return err
		}
		if o.Users, err = parseAll("--user", *users, dev.ParseAccount); err != nil {
			return err
		}
		if o.Proxy, err = dev.ParseAccount(*proxy); err != nil {
			return usageError{fmt.Errorf("--proxy %w", err)}
		}
		return dev.Run(cmd.Context(), o)
	}
	return cmd
}

func devUsers() []string {
	var users []string
	for i := 1; i <= 9; i++ {
		users = append(users, fmt.Sprintf("u%d:%s", i, devPassword))
	}
	return users
}

func parseAll[T any](flag string, values []string, parse func(string) (T, error)) ([]T, error) {
	var list []T
	for _, v := range values {
		t, err := parse(v)
		if err != nil {
			return nil, usageError{fmt.Errorf("%s %w", flag, err)}
		}
		list = append(list, t)
	}
	return list, nil
}
