package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"murder/internal/atomicfile"
	"murder/internal/config"
)

func newConfigImport() *cobra.Command {
	cmd := &cobra.Command{
		Use: "import --imapd-conf FILE --cyrus-conf FILE", Short: "Make a configuration of those of a Cyrus frontend or MUPDATE master", Args: cobra.NoArgs,
		Long: "The configuration goes to standard output, or with --write to a file, which must not exist. Every\n" +
			"option that cannot be taken over is named on standard error. Passwords go into files of their own,\n" +
			"which only --write makes.",
	}
	f := cmd.Flags()
	imapd := f.String("imapd-conf", "/etc/imapd.conf", "`file` of options")
	cyrus := f.String("cyrus-conf", "", "`file` of services; without it the usual ports are taken")
	to := f.String("write", "", "`file` to write instead of standard output")
	secrets := f.String("secrets", "/etc/murder/secrets", "`directory` for passwords")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		options, err := config.ReadIMAPDConf(*imapd)
		if err != nil {
			return err
		}
		var services []config.CyrusService
		if *cyrus != "" {
			file, err := os.Open(*cyrus)
			if err != nil {
				return err
			}
			defer file.Close()
			if services, err = config.ReadCyrusConf(file); err != nil {
				return fmt.Errorf("%s: %w", *cyrus, err)
			}
		}
		in := config.FromCyrus(options, services, *secrets)
		var text bytes.Buffer
		fmt.Fprintf(&text, "# Made from %s by murderd config import.\n", *imapd)
		if err := in.Config.Dump(&text, true, false); err != nil {
			return err
		}
		for _, note := range in.Notes {
			fmt.Fprintln(cmd.ErrOrStderr(), note)
		}
		if *to == "" {
			_, err := text.WriteTo(cmd.OutOrStdout())
			return err
		}
		return writeImported(*to, text.Bytes(), in.Secrets)
	}
	return cmd
}

func writeImported(to string, text []byte, secrets map[string]string) error {
	if _, err := os.Stat(to); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s exists already: name another file, or move it away", to)
	}
	put := func(path string, mode os.FileMode, data []byte) error {
		_, err := atomicfile.Write(path, mode, func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		})
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(secrets)) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := put(path, 0o600, []byte(secrets[path]+"\n")); err != nil {
			return err
		}
	}
	return put(to, 0o640, text)
}
