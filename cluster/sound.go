//go:build !broken

package cluster

// unsound is set in a build that is broken on purpose, to prove that the tests with recorded histories find
// it: reads are answered from the copy as it is, and nobody is asked.
const unsound = false
