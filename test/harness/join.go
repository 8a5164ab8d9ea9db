package harness

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Join starts one more node, of any role, and makes it a member with a token from a coordinator. The
// configuration needs only what it does not share with every node: [node] with id, role and
// development, the addresses of its services, and who may log in. It returns when the node is ready,
// and fails at once when its process ends.
func (c *Cluster) Join(ctx context.Context, id, role, host, config string) error {
	dir := filepath.Join(c.Dir, id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	file, socket, http := filepath.Join(dir, "murderd.toml"), filepath.Join(c.Dir, id+".sock"), host+":7403"
	text := fmt.Sprintf("[node]\nid = %q\nrole = %q\ndata_dir = %q\ndevelopment = true\n[cluster]\nlisten = %q\n[gossip]\nlisten = %q\n"+
		"[admin]\nsocket = %q\nlisten = %q\n%s", id, role, filepath.Join(dir, "data"), host+":7401", host+":7402", socket, http, config)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	key := strings.ToUpper(id)
	for k, v := range map[string]string{"_CONFIG": file, "_ADMIN": socket, "_HTTP": http} {
		c.env[key+k] = v
	}
	p, err := c.run(id, "--config", file)
	if err != nil {
		return err
	}
	c.nodes[id] = p
	token, err := c.Murderctl(ctx, c.anyone(), "cluster", "token", "create", "--role", role)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	_, err = poll(ctx, func() (struct{}, error) {
		if err := c.running(id); err != nil {
			return struct{}{}, err
		}
		_, err := c.Murderctl(ctx, id, "cluster", "join", string(bytes.TrimSpace(token)))
		return struct{}{}, err
	})
	if err != nil {
		return err
	}
	if err := c.AwaitReady(ctx, id); err != nil {
		return err
	}
	c.ids = append(c.ids, id)
	return nil
}
