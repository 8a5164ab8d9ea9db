package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"murder/cmd/murderctl/output"
	"murder/internal/auth"
)

const defaultUsersFile = "/etc/murder/users"

func newUser(c *ctl) *cobra.Command {
	cmd := group("user", "Keep the users file of the frontends")
	file := cmd.PersistentFlags().StringP("file", "f", defaultUsersFile, "users `file`, as users.file in murderd.toml names it")
	cmd.AddCommand(newUserSet(file), newUserPasswd(file), newUserRemove(file), newUserList(c, file))
	return cmd
}

func newUserSet(file *string) *cobra.Command {
	var u auth.User
	var form string
	cmd := &cobra.Command{
		Use: "set NAME", Aliases: []string{"add"}, Short: "Add a user, or replace everything that is known about one", Args: cobra.ExactArgs(1),
		Long: "The password is asked for, or is the first line of standard input. Running nodes notice the change.",
		RunE: func(cmd *cobra.Command, args []string) error {
			u.Name = args[0]
			return setPassword(cmd, *file, u, form)
		},
	}
	f := cmd.Flags()
	formFlag(cmd, &form)
	f.StringSliceVar(&u.Groups, "groups", nil, "`groups` that ACLs may name as group:NAME")
	f.BoolVar(&u.Admin, "admin", false, "sees all mailboxes, may act as anybody")
	f.BoolVar(&u.Proxy, "proxy", false, "may act as any user who is no administrator")
	return cmd
}

func formFlag(cmd *cobra.Command, form *string) {
	cmd.Flags().StringVar(form, "form", auth.FormScramSHA256, "`form` of the hash: scram-sha-256 (serves every mechanism), argon2id or bcrypt (PLAIN and LOGIN only)")
}

func newUserPasswd(file *string) *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use: "passwd NAME", Short: "Give a user another password; groups and rights stay", Args: cobra.ExactArgs(1),
		Long: "The password is asked for, or is the first line of standard input. Running nodes notice the change.",
		RunE: func(cmd *cobra.Command, args []string) error {
			var u auth.User
			found := false
			err := eachUser(*file, func(known auth.User) {
				if known.Name == args[0] {
					u, found = known, true
				}
			})
			switch {
			case err != nil:
				return err
			case !found:
				return fmt.Errorf("no user %s in %s: murderctl user add makes one", args[0], *file)
			}
			return setPassword(cmd, *file, u, form)
		},
	}
	formFlag(cmd, &form)
	return cmd
}

func setPassword(cmd *cobra.Command, file string, u auth.User, form string) error {
	password, err := readPassword(cmd, u.Name)
	if err != nil {
		return err
	}
	if u.Password, err = auth.HashPassword(form, password); err != nil {
		return usageError{err}
	}
	return auth.SetUser(file, u)
}

// eachUser reads the users file.
func eachUser(file string, f func(auth.User)) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		u, err := auth.ParseUser(line)
		if err != nil {
			return fmt.Errorf("%s:%d: %w", file, n, err)
		}
		f(u)
	}
	return lines.Err()
}

func readPassword(cmd *cobra.Command, name string) (string, error) {
	if f, ok := cmd.InOrStdin().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		cmd.PrintErrf("password of %s: ", name)
		pw, err := term.ReadPassword(int(f.Fd()))
		cmd.PrintErrln()
		return string(pw), err
	}
	line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.New("no password on standard input")
	}
	return line, nil
}

func newUserRemove(file *string) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Remove a user from the file; the mailboxes stay", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return auth.RemoveUser(*file, args[0]) },
	}
}

func newUserList(c *ctl, file *string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the users of the file", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			type row struct {
				Name   string   `json:"name"`
				Groups []string `json:"groups,omitempty"`
				Admin  bool     `json:"admin,omitempty"`
				Proxy  bool     `json:"proxy,omitempty"`
			}
			var rows []row
			t := output.Table{Head: []string{"NAME", "GROUPS", "ADMIN", "PROXY"}}
			err := eachUser(*file, func(u auth.User) {
				rows = append(rows, row{u.Name, u.Groups, u.Admin, u.Proxy})
				t.Row(u.Name, strings.Join(u.Groups, ","), u.Admin, u.Proxy)
			})
			if err != nil {
				return err
			}
			return c.show(cmd, rows, t)
		},
	}
}
