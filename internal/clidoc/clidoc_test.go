package clidoc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestWrite(t *testing.T) {
	root := &cobra.Command{Use: "tool", Short: "Do things", Long: ".starts with a dot"}
	root.PersistentFlags().StringP("output", "o", "table", "`format` of the answer")
	root.AddCommand(&cobra.Command{Use: "do THING", Short: "Do a thing", Run: func(*cobra.Command, []string) {}})
	root.AddCommand(Command(root, "8"))
	dir := t.TempDir()
	root.SetArgs([]string{"docs", dir})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "man", "tool.8"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{".TH TOOL 8", `tool \- Do things`, `\&.starts with a dot`, ".SS tool do THING", `\fB\-o, \-\-output\fR \fIformat\fR`, "format of the answer (default table)."} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	if strings.Contains(string(page), "docs DIR") {
		t.Error("a hidden command is shown")
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if info, err := os.Stat(filepath.Join(dir, "completion", "tool."+shell)); err != nil || info.Size() == 0 {
			t.Errorf("no completion for %s: %v", shell, err)
		}
	}
}
