package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// identity is the file that makes a data directory a member. It is written last when a node becomes
// one, so a directory without it never took part in anything.
type identity struct {
	ClusterID string `json:"cluster_id"`
	NodeID    string `json:"node_id"`
	Role      Role   `json:"role"`
	// Peers are addresses of coordinators as last seen. A hint for a node that comes back elsewhere.
	Peers []string `json:"peers,omitempty"`
	// ClusterVersion is what the cluster spoke when last seen: a binary that is too old must not start.
	ClusterVersion uint32 `json:"cluster_version,omitempty"`
	// Epoch is how often the cluster has been recovered from a lost quorum.
	Epoch uint64 `json:"epoch,omitempty"`
	// Damaged is why a coordinator must not start with these files any more.
	Damaged string `json:"damaged,omitempty"`
	// Diverged is that a majority of the voters has another copy than this coordinator (judge.go).
	Diverged bool `json:"diverged,omitempty"`
	// DivergedAt is how far the copy was then, 0 if that is not known: a copy that begins with a snapshot of
	// later is another, for a copy that was found wrong keeps none.
	DivergedAt uint64 `json:"diverged_at,omitempty"`
}

// Files of the data directory.
const (
	identityFile = "identity.json"
	caFile       = "ca.pem"
	caKeyFile    = "ca-key.pem"
	certFile     = "node.pem" // with its key
	raftDir      = "raft"
)

// readIdentity returns nil and no error when the directory holds no membership yet.
func readIdentity(dir string) (*identity, error) {
	path := filepath.Join(dir, identityFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading identity: %w", err)
	}
	var id identity
	if err := json.Unmarshal(data, &id); err != nil || id.ClusterID == "" || id.NodeID == "" || id.Role == "" {
		return nil, fmt.Errorf("identity file %s is damaged: restore it, or empty the data directory and join again", path)
	}
	return &id, nil
}

func (id *identity) write(dir string) error {
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, identityFile), append(data, '\n'), 0o644)
}

// judged reports whether a copy that begins with the snapshot of an index is the one that was found wrong.
func (id *identity) judged(snapshot uint64) bool {
	return id.Diverged && (id.DivergedAt == 0 || snapshot <= id.DivergedAt)
}

// check compares the membership in the data directory with the configuration.
func (id *identity) check(c *Config) error {
	if id.NodeID != c.NodeID {
		return fmt.Errorf("data directory %s belongs to node %q, but this node is configured as %q: correct the node id, or use an empty data directory and join", c.DataDir, id.NodeID, c.NodeID)
	}
	if id.Role != c.Role.member() {
		return fmt.Errorf("data directory %s belongs to a %s, but this node is configured as %s: remove the node from the cluster, empty the directory and join again in the new role", c.DataDir, id.Role, c.Role)
	}
	return nil
}

// writeFile replaces a file so that a crash leaves either the old or the new content.
func writeFile(path string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err = tmp.Write(data); err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
