package harness

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"
)

// AwaitReady waits until a node says that it is ready.
func (c *Cluster) AwaitReady(ctx context.Context, id string) error {
	url := "http://" + c.Addr(id, "http") + "/readyz"
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("%s", resp.Status)
		}
		if !alive(c.PID(id)) {
			return fmt.Errorf("%s ended", id)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", id, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *Cluster) AwaitEqual(t testing.TB) {}
