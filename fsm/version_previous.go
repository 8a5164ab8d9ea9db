//go:build previous

package fsm

// MaxVersion of a binary built with the tag "previous", which is what test/upgrade upgrades from: it
// knows no command of the newest cluster version and stops when it meets one, as the last release would.
const MaxVersion = 1
