//go:build !previous

package fsm

// MaxVersion is the newest cluster version that this binary can take part in.
const MaxVersion = 2
