package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"murder/cmd/murderctl/output"
)

func newCheck(c *ctl) *cobra.Command {
	return group("check", "See what a machine is good for, before it becomes a node", newCheckDisk(c))
}

// diskReport is what check disk -o json prints.
type diskReport struct {
	Dir     string  `json:"dir"`
	Flushes int     `json:"flushes"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	Max     float64 `json:"max_ms"`
	OK      bool    `json:"ok"`
	Verdict string  `json:"verdict"`
}

func newCheckDisk(c *ctl) *cobra.Command {
	cmd := &cobra.Command{
		Use: "disk", Short: "Measure how long a disk takes to flush, which every change waits for", Args: cobra.NoArgs,
		Long: "Writes to a file in the directory as a coordinator's log does, and removes it. A node that runs on the same\n" +
			"disk gets slower meanwhile, and is a part of what is measured. Exit 1 if the disk is too slow for a coordinator.",
	}
	dir := dataDirFlag(cmd)
	count := cmd.Flags().Int("count", 500, "how many `flushes`")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *count < 1 || *count > 100_000 {
			return usageError{fmt.Errorf("--count %d: want 1 to 100000", *count)}
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), standstillLimit)
		defer cancel()
		took, err := flushes(ctx, *dir, *count)
		if err != nil {
			return fmt.Errorf("checking the disk of %s: %w", *dir, err)
		}
		r := judgeDisk(took)
		r.Dir = *dir
		t := output.Table{Head: []string{"FLUSHES", "P50 MS", "P99 MS", "MAX MS"}, Foot: r.Verdict}
		t.Row(r.Flushes, r.P50, r.P99, r.Max)
		if err := c.show(cmd, r, t); err != nil {
			return err
		}
		if !r.OK {
			return exitCode(1)
		}
		return nil
	}
	return cmd
}

const (
	standstillLimit = time.Minute // a disk that is not done then is judged by what it has done
	flushOctets     = 8 << 10     // of a small batch with its pages
	flushFile       = 1 << 20     // written over and over, as a log file's pages are
)

// flushes measures so many, or as many as there is time for.
func flushes(ctx context.Context, dir string, count int) (took []time.Duration, err error) {
	f, err := os.CreateTemp(dir, ".check-disk.*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	if _, err := f.Write(make([]byte, flushFile)); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	block := make([]byte, flushOctets)
	for i := range count {
		block[0] = byte(i)
		begun := time.Now()
		if _, err := f.WriteAt(block, int64(i*flushOctets%flushFile)); err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(begun))
		if ctx.Err() != nil {
			break
		}
	}
	return took, nil
}

// What flushes may take. A change waits for two of them on a majority of the voters.
const (
	flushGood = 10 * time.Millisecond
	flushBad  = 50 * time.Millisecond
	flushFast = 20 * time.Microsecond // no disk is faster
)

func judgeDisk(took []time.Duration) diskReport {
	slices.Sort(took)
	at := func(part float64) time.Duration { return took[min(int(part*float64(len(took))), len(took)-1)] }
	ms := func(d time.Duration) float64 { return float64(d.Round(time.Microsecond).Microseconds()) / 1000 }
	p50, p99 := at(.5), at(.99)
	r := diskReport{Flushes: len(took), P50: ms(p50), P99: ms(p99), Max: ms(at(1)), OK: true}
	switch {
	case p99 > flushBad:
		r.OK = false
		r.Verdict = "too slow for a coordinator: every change waits for this, and a pause of a few seconds ends the process. Use another disk"
	case p99 > flushGood:
		r.Verdict = "usable, but changes will be slow when there are many. Is something else busy on this disk?"
	case p50 < flushFast:
		r.Verdict = "faster than any disk: what is on it is in memory, or it does not flush. A coordinator must not forget what it has said"
	default:
		r.Verdict = "good for a coordinator"
	}
	return r
}
