// Package clidoc writes what belongs to a command line program: man pages (roff, man(7)) and
// completion scripts, from the cobra commands that it is made of.
//
// cobra has a writer of man pages too, but it brings a Markdown parser and YAML into the program.
package clidoc

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Command returns the hidden command "docs DIR" of a program whose man pages are in a section.
func Command(root *cobra.Command, section string) *cobra.Command {
	return &cobra.Command{
		Use: "docs DIR", Short: "Write man pages and shell completion", Args: cobra.ExactArgs(1), Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error { return write(root, section, args[0]) },
	}
}

func write(root *cobra.Command, section, dir string) error {
	man, completion := filepath.Join(dir, "man"), filepath.Join(dir, "completion")
	for _, d := range []string{man, completion} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("writing documentation: %w", err)
		}
	}
	// One page for a program: its commands are sections, so that "man murderctl" finds everything.
	page := filepath.Join(man, root.Name()+"."+section)
	if err := os.WriteFile(page, []byte(Page(root, section)), 0o644); err != nil {
		return fmt.Errorf("writing documentation: %w", err)
	}
	name := filepath.Join(completion, root.Name())
	if err := root.GenBashCompletionFileV2(name+".bash", true); err != nil {
		return fmt.Errorf("writing completion: %w", err)
	}
	if err := root.GenZshCompletionFile(name + ".zsh"); err != nil {
		return fmt.Errorf("writing completion: %w", err)
	}
	if err := root.GenFishCompletionFile(name+".fish", true); err != nil {
		return fmt.Errorf("writing completion: %w", err)
	}
	return nil
}

// Page returns the man page of a program.
func Page(root *cobra.Command, section string) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s %s \"\" murder\n.SH NAME\n%s \\- %s\n", strings.ToUpper(root.Name()), section, root.Name(), escape(root.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n.I COMMAND\n.RI [ FLAGS ]\n", root.Name())
	if root.Long != "" {
		fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", escape(root.Long))
	}
	flags(&b, ".SH OPTIONS\n", root.PersistentFlags())
	b.WriteString(".SH COMMANDS\n")
	commands(&b, root)
	return b.String()
}

func commands(b *strings.Builder, cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		if c.Runnable() {
			fmt.Fprintf(b, ".SS %s\n%s\n", escape(c.UseLine()), escape(c.Short)+".")
			if c.Long != "" {
				fmt.Fprintf(b, ".PP\n%s\n", escape(c.Long))
			}
			flags(b, "", c.NonInheritedFlags())
			if c.Example != "" {
				fmt.Fprintf(b, ".PP\n.nf\n%s\n.fi\n", escape(c.Example))
			}
		}
		commands(b, c)
	}
}

func flags(b *strings.Builder, head string, set *pflag.FlagSet) {
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		b.WriteString(head)
		head = ""
		value, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		fmt.Fprintf(b, ".TP\n\\fB%s\\fR", escape(name))
		if value != "" {
			fmt.Fprintf(b, " \\fI%s\\fR", escape(value))
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" {
			usage += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(b, "\n%s.\n", escape(strings.TrimSuffix(usage, ".")))
	})
}

// escape protects what roff would take for its own, and keeps the lines of a text.
func escape(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
