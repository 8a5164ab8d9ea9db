package admin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// BallastFile lies in a coordinator's data directory and takes up room, so that there is some when the
// disk is full and the coordinator must start to make room itself.
const BallastFile = "ballast"

// FreeBallast removes the ballast of a data directory and returns its size. The node makes a new one
// when it starts with room to spare.
func FreeBallast(dataDir string) (octets int64, err error) {
	path := filepath.Join(dataDir, BallastFile)
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, &Error{Message: "no ballast in " + dataDir, Hint: "it has been freed before, or this is not the data directory of a coordinator"}
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil {
		return 0, fmt.Errorf("freeing the ballast: %w", err)
	}
	return info.Size(), nil
}
