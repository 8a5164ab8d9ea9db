//go:build !linux

package cyrus

import (
	"errors"
	"os/exec"
)

var errLinux = errors.New("only on Linux")

type view string

func newView(dir, services, hosts string) (view, error) { return "", errLinux }
func (v view) logSocket() string                        { return "" }
func (v view) supervise(args ...string) *exec.Cmd       { return exec.Command("false") }
func (v view) tool(args ...string) *exec.Cmd            { return exec.Command("false") }
func tryNamespaces() error                              { return errLinux }
