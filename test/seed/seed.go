// Package seed gives tests chance that can be had again: each says with which seed it ran, and takes one from
// MURDER_SEED. What a seed fixes is what a test does and in which order, not how the machine interleaves it.
package seed

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Rand returns a source and tells how to repeat it.
func Rand(t testing.TB) *rand.Rand {
	t.Helper()
	return From(Take(t))
}

// From returns the source of a seed.
func From(s uint64) *rand.Rand { return rand.New(rand.NewPCG(s, 0)) }

// Take returns a seed and tells how to repeat it.
func Take(t testing.TB) uint64 {
	t.Helper()
	s := rand.Uint64()
	if text := os.Getenv("MURDER_SEED"); text != "" {
		var err error
		if s, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("MURDER_SEED: %v", err)
		}
	}
	t.Logf("MURDER_SEED=%d does the same again", s)
	return s
}
