package fsm

import (
	"crypto/subtle"
	"fmt"
	"maps"
	"slices"
)

func (m *Machine) registerNode(n Node) Result {
	if n.ID == "" {
		return Result{Refusal: RefusedUnknown, Detail: "node without id"}
	}
	if n.MaxCluster < m.clusterVersion || n.MinCluster > m.clusterVersion {
		return Result{Refusal: RefusedVersion, Detail: fmt.Sprintf("node %s speaks cluster versions %d to %d, the cluster %d",
			n.ID, n.MinCluster, n.MaxCluster, m.clusterVersion)}
	}
	old, known := m.nodes.get(n.ID)
	switch {
	case n.Index != 0 && n.Index != old.Index && m.clusterVersion >= versionNodeIndex:
		return Result{Refusal: RefusedChanged, Detail: n.ID}
	case !known && m.nodes.len() >= maxNodes:
		return Result{Refusal: RefusedFull, Detail: "too many nodes"}
	}
	n.Index = m.index
	m.nodes.set(n.ID, n)
	return Result{}
}

func (m *Machine) setNodeState(c SetNodeState) Result {
	n, ok := m.nodes.get(c.ID)
	if !ok {
		return Result{Refusal: RefusedUnknown, Detail: c.ID}
	}
	if n.State != c.State {
		n.State, n.Index = c.State, m.index
		m.nodes.set(n.ID, n)
	}
	return Result{}
}

func (m *Machine) setNodeAttribute(c SetNodeAttribute) Result {
	n, ok := m.nodes.get(c.ID)
	switch {
	case !ok:
		return Result{Refusal: RefusedUnknown, Detail: c.ID}
	case n.Attributes[c.Key] == c.Value:
		return Result{}
	case c.Key == "" || len(c.Key) > maxSettingKey || len(c.Value) > maxSettingKey || c.Value != "" && len(n.Attributes) >= maxAttributes:
		return Result{Refusal: RefusedFull, Detail: "attribute too long, or too many"}
	}
	// Rows are shared with views.
	attributes := maps.Clone(n.Attributes)
	if attributes == nil {
		attributes = make(map[string]string)
	}
	attributes[c.Key] = c.Value
	if c.Value == "" {
		delete(attributes, c.Key)
	}
	n.Attributes, n.Index = attributes, m.index
	m.nodes.set(n.ID, n)
	return Result{}
}

func (m *Machine) removeNode(id string) Result {
	if _, ok := m.nodes.delete(id); !ok {
		return Result{Refusal: RefusedUnknown, Detail: id}
	}
	m.dropIncarnations(func(inc *incarnation) bool { return inc.node == id })
	return Result{}
}

func (m *Machine) setSetting(c SetSetting) Result {
	old, known := m.settings.get(c.Key)
	switch {
	case c.IfIndex == IfAbsent && known, c.IfIndex != 0 && c.IfIndex != IfAbsent && old.Index != c.IfIndex:
		return Result{Refusal: RefusedChanged, Detail: old.Value}
	case c.Key == "" || len(c.Value) > maxSettingValue || len(c.Key) > maxSettingKey:
		return Result{Refusal: RefusedFull, Detail: "key or value too long"}
	case c.Value == "":
		m.settings.delete(c.Key)
		return Result{}
	case !known && m.settings.len() >= maxSettings:
		return Result{Refusal: RefusedFull, Detail: "too many settings"}
	}
	m.settings.set(c.Key, Setting{Key: c.Key, Value: c.Value, Index: m.index})
	return Result{}
}

// setClusterVersion raises the version that opens the gates of commands. Nodes that cannot be
// reached count as well, with what they registered: one of them would stop when it comes back.
func (m *Machine) setClusterVersion(to uint32) Result {
	if to < m.clusterVersion {
		return Result{Refusal: RefusedLower, Detail: fmt.Sprintf("cluster version is %d", m.clusterVersion)}
	}
	var blocked string
	m.nodes.rows.Scan(func(id string, n *Node) bool {
		if n.MaxCluster < to {
			blocked = id
		}
		return blocked == ""
	})
	if blocked != "" {
		return Result{Refusal: RefusedVersion, Detail: blocked}
	}
	m.clusterVersion = to
	return Result{}
}

func (m *Machine) putToken(c PutToken) Result {
	var expired []string
	m.tokens.rows.Scan(func(id string, t *Token) bool {
		if t.ExpiresUnix <= c.Now {
			expired = append(expired, id)
		}
		return true
	})
	for _, id := range expired {
		m.tokens.delete(id)
	}
	if _, known := m.tokens.get(c.Token.ID); known {
		return Result{Refusal: RefusedDuplicate, Detail: c.Token.ID}
	}
	if c.Token.ID == "" || c.Token.UsesLeft > maxTokenUses || m.tokens.len() >= maxTokens {
		return Result{Refusal: RefusedFull, Detail: "too many tokens or uses"}
	}
	c.Token.UsedBy = nil
	m.tokens.set(c.Token.ID, c.Token)
	return Result{}
}

func (m *Machine) useToken(c UseToken) Result {
	t, ok := m.tokens.get(c.ID)
	switch {
	case !ok:
		return Result{Refusal: RefusedUnknown}
	case subtle.ConstantTimeCompare(t.SecretHash[:], c.SecretHash[:]) != 1:
		return Result{Refusal: RefusedSecret}
	case t.ExpiresUnix <= c.Now:
		return Result{Refusal: RefusedExpired}
	case t.Role != c.Role:
		return Result{Refusal: RefusedRole, Detail: t.Role.String()}
	case slices.Contains(t.UsedBy, c.NodeID):
		return Result{}
	case t.UsesLeft == 0:
		return Result{Refusal: RefusedUsed}
	}
	t.UsesLeft--
	t.UsedBy = append(slices.Clip(t.UsedBy), c.NodeID)
	m.tokens.set(t.ID, t)
	return Result{}
}

func (m *Machine) revokeToken(id string) Result {
	if _, ok := m.tokens.delete(id); !ok {
		return Result{Refusal: RefusedUnknown, Detail: id}
	}
	return Result{}
}
