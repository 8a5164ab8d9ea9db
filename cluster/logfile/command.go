package logfile

import (
	"fmt"
	"reflect"
	"strings"

	"murder/fsm"
)

// commandOf says what a command does, without its secrets.
func commandOf(c fsm.Command) Command {
	switch c := c.(type) {
	case nil:
		return Command{Type: "unknown, may be skipped"}
	case fsm.MailboxWrite:
		what := string(c.Location)
		if by := c.By.Identity; by != "" {
			what = strings.TrimSpace(what + " by " + by)
		}
		return Command{Type: c.Kind.String(), Name: string(c.Name), What: what}
	case fsm.RegisterNode:
		return Command{Type: "register-node", Name: c.Node.ID, What: c.Node.Role.String() + " at " + c.Node.Address}
	case fsm.SetNodeState:
		return Command{Type: "set-node-state", Name: c.ID, What: c.State.String()}
	case fsm.SetNodeAttribute:
		return Command{Type: "set-node-attribute", Name: c.ID, What: c.Key + "=" + c.Value}
	case fsm.RemoveNode:
		return Command{Type: "remove-node", Name: c.ID}
	case fsm.SetSetting:
		return Command{Type: "set-setting", Name: c.Key} // some values are sealed keys
	case fsm.SetClusterVersion:
		return Command{Type: "set-cluster-version", What: fmt.Sprint(c.Version)}
	case fsm.Checkpoint:
		return Command{Type: "checkpoint", What: fmt.Sprintf("digest %s at %d", c.Digest, c.Index)}
	case fsm.Resolve:
		return Command{Type: "resolve", Name: string(c.Name)}
	}
	return Command{Type: dashed(reflect.TypeOf(c).Name())}
}

// dashed turns NewTerm into new-term.
func dashed(name string) string {
	var b strings.Builder
	for i, r := range name {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte('-')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}
