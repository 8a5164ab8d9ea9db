package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"murder/test/loopback"
)

// Tour plays the guided tour of `murderd dev` and returns what it wrote if it did not end well.
func Tour(ctx context.Context) error {
	bin, err := Binaries()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "murder-tour")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	args := []string{"dev", "--dir", dir, "--tour", "--once"}
	net, err := loopback.Claim()
	if err == nil {
		defer net.Release()
		args = append(args, "--net", net.Prefix())
	} else if !errors.Is(err, loopback.ErrOneAddress) {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "murderd"), args...)
	cmd.SysProcAttr = ChildAttr()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("the tour: %w\n%s", err, out)
	}
	return nil
}
