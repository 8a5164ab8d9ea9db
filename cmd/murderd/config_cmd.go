package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"murder/internal/config"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check, show and explain the configuration"}
	cmd.AddCommand(newConfigCheck(), newConfigDump(), newConfigExample(), newConfigImport(), newConfigReference())
	return cmd
}

func newConfigCheck() *cobra.Command {
	cmd := &cobra.Command{Use: "check", Short: "Say everything that is wrong with the file", Args: cobra.NoArgs}
	file := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := load(*file)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: good (node %s, role %s)\n", *file, c.Node.ID, c.Node.Role)
		return err
	}
	return cmd
}

// load reads the file and turns a failure into something to act on.
func load(file string) (*config.Config, error) {
	c, err := config.Load(file)
	var problems config.Problems
	switch {
	case errors.As(err, &problems):
		return nil, fmt.Errorf("the configuration cannot be used:\n%w", problems)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w; \"murderd config example\" writes one to begin with", err)
	}
	return c, err
}

func newConfigDump() *cobra.Command {
	cmd := &cobra.Command{Use: "dump", Short: "Write the configuration in effect, without secrets", Args: cobra.NoArgs}
	file := configFlag(cmd)
	changed := cmd.Flags().Bool("changed", false, "only what differs from the defaults")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := load(*file)
		if err != nil {
			return err
		}
		return c.Dump(cmd.OutOrStdout(), *changed, false)
	}
	return cmd
}

func newConfigExample() *cobra.Command {
	cmd := &cobra.Command{Use: "example", Short: "Write a file with every key, its meaning and its default", Args: cobra.NoArgs}
	role := cmd.Flags().String("role", config.Coordinator, "coordinator, frontend, both or agent")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch *role {
		case config.Coordinator, config.Frontend, config.Both, config.Agent:
			return config.Example(cmd.OutOrStdout(), *role)
		}
		return usageError{fmt.Errorf("unknown role %q: want coordinator, frontend, both or agent", *role)}
	}
	return cmd
}

func newConfigReference() *cobra.Command {
	return &cobra.Command{
		Use: "reference", Short: "Write docs/config.md", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return config.Reference(cmd.OutOrStdout()) },
	}
}
