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
	s := rand.Uint64()
	if text := os.Getenv("MURDER_SEED"); text != "" {
		var err error
		if s, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("MURDER_SEED: %v", err)
		}
	}
	t.Logf("MURDER_SEED=%d does the same again", s)
	return rand.New(rand.NewPCG(s, 0))
}
