package fsm

import (
	"maps"
	"slices"

	"murder/internal/mbox"
)

// kind is the command type in the log. Never renumber.
type kind uint64

const (
	kindMailboxWrite kind = 1 + iota
	kindEmpty
	kindNewTerm
	kindTick
	kindCheckpoint
	kindRegisterNode
	kindSetNodeState
	kindRemoveNode
	kindRegisterProposer
	kindSetSetting
	kindSetClusterVersion
	kindPutToken
	kindUseToken
	kindRevokeToken
	kindResolve
	kindSetNodeAttribute
)

func (MailboxWrite) kind() kind      { return kindMailboxWrite }
func (Empty) kind() kind             { return kindEmpty }
func (NewTerm) kind() kind           { return kindNewTerm }
func (Tick) kind() kind              { return kindTick }
func (Checkpoint) kind() kind        { return kindCheckpoint }
func (RegisterNode) kind() kind      { return kindRegisterNode }
func (SetNodeState) kind() kind      { return kindSetNodeState }
func (RemoveNode) kind() kind        { return kindRemoveNode }
func (RegisterProposer) kind() kind  { return kindRegisterProposer }
func (SetSetting) kind() kind        { return kindSetSetting }
func (SetClusterVersion) kind() kind { return kindSetClusterVersion }
func (PutToken) kind() kind          { return kindPutToken }
func (UseToken) kind() kind          { return kindUseToken }
func (RevokeToken) kind() kind       { return kindRevokeToken }
func (Resolve) kind() kind           { return kindResolve }
func (SetNodeAttribute) kind() kind  { return kindSetNodeAttribute }

// commandInfo says how a command travels.
type commandInfo struct {
	version   uint64 // of its body; a changed meaning is a new version
	since     uint32 // cluster version that opens its gate
	ignorable bool   // touches no replicated table, so a binary that does not know it may skip it
}

var commands = map[kind]commandInfo{
	kindMailboxWrite:      {1, 1, false},
	kindEmpty:             {1, 1, true},
	kindNewTerm:           {1, 1, false},
	kindTick:              {1, 1, false},
	kindCheckpoint:        {1, 1, true},
	kindRegisterNode:      {1, 1, false},
	kindSetNodeState:      {1, 1, false},
	kindRemoveNode:        {1, 1, false},
	kindRegisterProposer:  {1, 1, false},
	kindSetSetting:        {1, 1, false},
	kindSetClusterVersion: {1, 1, false},
	kindPutToken:          {1, 1, false},
	kindUseToken:          {1, 1, false},
	kindRevokeToken:       {1, 1, false},
	kindResolve:           {1, 1, false},
	kindSetNodeAttribute:  {1, 2, false},
}

// appendBody writes the fields of a command. Fields are only ever added at the end.
func appendBody(dst []byte, c Command) []byte {
	switch c := c.(type) {
	case MailboxWrite:
		return appendWrite(dst, c)
	case Empty:
	case NewTerm:
		dst = appendUint(dst, c.Term)
		dst = appendString(dst, c.Leader)
	case Tick:
		dst = appendInt(dst, c.At)
	case Checkpoint:
		dst = appendUint(dst, c.Index)
		dst = append(dst, c.Digest[:]...)
	case RegisterNode:
		dst = appendNode(dst, c.Node)
	case SetNodeState:
		dst = appendString(dst, c.ID)
		dst = append(dst, byte(c.State))
	case RemoveNode:
		dst = appendString(dst, c.ID)
	case RegisterProposer:
		dst = appendString(dst, c.NodeID)
		dst = appendString(dst, c.Nonce)
	case SetSetting:
		dst = appendString(dst, c.Key)
		dst = appendString(dst, c.Value)
		dst = appendUint(dst, c.IfIndex)
	case SetClusterVersion:
		dst = appendUint(dst, uint64(c.Version))
	case PutToken:
		dst = appendToken(dst, c.Token)
		dst = appendInt(dst, c.Now)
	case UseToken:
		dst = appendString(dst, c.ID)
		dst = append(dst, c.SecretHash[:]...)
		dst = append(dst, byte(c.Role))
		dst = appendString(dst, c.NodeID)
		dst = appendInt(dst, c.Now)
	case RevokeToken:
		dst = appendString(dst, c.ID)
	case Resolve:
		dst = append(dst, byte(c.What))
		dst = appendString(dst, c.Name)
		dst = appendString(dst, c.Claimant)
		dst = appendString(dst, c.Identity)
		dst = appendInt(dst, c.At)
	case SetNodeAttribute:
		dst = appendString(dst, c.ID)
		dst = appendString(dst, c.Key)
		dst = appendString(dst, c.Value)
	}
	return dst
}

// readBody is the opposite of appendBody; it reports false for what appendBody cannot have written.
// near is a session whose strings may be shared.
func readBody(k kind, body []byte, near *mbox.Session) (Command, bool) {
	r := &reader{b: body}
	var c Command
	switch k {
	case kindMailboxWrite:
		c = readWrite(r, near)
	case kindEmpty:
		c = Empty{}
	case kindNewTerm:
		c = NewTerm{Term: r.uint(), Leader: r.string()}
	case kindTick:
		c = Tick{At: r.int()}
	case kindCheckpoint:
		c = Checkpoint{Index: r.uint(), Digest: r.digest()}
	case kindRegisterNode:
		c = RegisterNode{readNode(r)}
	case kindSetNodeState:
		c = SetNodeState{ID: r.string(), State: NodeState(r.byte())}
	case kindRemoveNode:
		c = RemoveNode{r.string()}
	case kindRegisterProposer:
		c = RegisterProposer{NodeID: r.string(), Nonce: r.string()}
	case kindSetSetting:
		c = SetSetting{Key: r.string(), Value: r.string(), IfIndex: r.uint()}
	case kindSetClusterVersion:
		c = SetClusterVersion{uint32(r.uint())}
	case kindPutToken:
		c = PutToken{Token: readToken(r), Now: r.int()}
	case kindUseToken:
		c = UseToken{ID: r.string(), SecretHash: r.hash32(), Role: Role(r.byte()), NodeID: r.string(), Now: r.int()}
	case kindRevokeToken:
		c = RevokeToken{r.string()}
	case kindResolve:
		c = Resolve{What: Register(r.byte()), Name: mbox.Name(r.string()), Claimant: mbox.Server(r.string()),
			Identity: r.string(), At: r.int()}
	case kindSetNodeAttribute:
		c = SetNodeAttribute{ID: r.string(), Key: r.string(), Value: r.string()}
	}
	return c, !r.failed
}

func appendWrite(dst []byte, w MailboxWrite) []byte {
	dst = append(dst, byte(w.Kind))
	dst = appendString(dst, w.Name)
	dst = appendString(dst, w.Location)
	dst = appendString(dst, w.ACL)
	dst = appendUint(dst, w.IfIndex)
	dst = appendString(dst, w.By.ID)
	dst = appendString(dst, w.By.Identity)
	dst = appendString(dst, w.By.Peer)
	dst = appendUint(dst, uint64(len(w.By.Servers)))
	for _, s := range w.By.Servers {
		dst = appendString(dst, s)
	}
	dst = appendUint(dst, uint64(w.By.Flags))
	return appendInt(dst, w.At)
}

func readWrite(r *reader, near *mbox.Session) MailboxWrite {
	var w MailboxWrite
	if w.Kind = mbox.Kind(r.byte()); w.Kind < mbox.Reserve || w.Kind > mbox.Remove {
		r.fail() // a new kind needs a new version of the command, or copies would differ
	}
	w.Name = mbox.Name(r.string())
	w.Location = mbox.Location(r.string())
	w.ACL = mbox.ACL(r.string())
	w.IfIndex = r.uint()
	w.By.ID = r.stringLike(near.ID)
	w.By.Identity = r.stringLike(near.Identity)
	w.By.Peer = r.stringLike(near.Peer)
	n := r.count()
	for i := 0; i < n && !r.failed; i++ {
		known := ""
		if i < len(near.Servers) {
			known = string(near.Servers[i])
		}
		w.By.Servers = append(w.By.Servers, mbox.Server(r.stringLike(known)))
	}
	w.By.Flags = mbox.SessionFlags(r.uint())
	w.At = r.int()
	*near = w.By
	return w
}

func appendNode(dst []byte, n Node) []byte {
	dst = appendString(dst, n.ID)
	dst = append(dst, byte(n.Role), byte(n.State))
	dst = appendString(dst, n.Address)
	dst = appendMap(dst, n.Services)
	dst = appendMap(dst, n.Attributes)
	dst = appendBool(dst, n.DurableLog)
	dst = appendUint(dst, uint64(n.MinCluster))
	dst = appendUint(dst, uint64(n.MaxCluster))
	dst = appendString(dst, n.BinaryVersion)
	return appendUint(dst, n.Index)
}

func readNode(r *reader) Node {
	return Node{ID: r.string(), Role: Role(r.byte()), State: NodeState(r.byte()), Address: r.string(),
		Services: readMap(r), Attributes: readMap(r), DurableLog: r.bool(),
		MinCluster: uint32(r.uint()), MaxCluster: uint32(r.uint()), BinaryVersion: r.string(), Index: r.uint()}
}

func appendToken(dst []byte, t Token) []byte {
	dst = appendString(dst, t.ID)
	dst = append(dst, t.SecretHash[:]...)
	dst = append(dst, byte(t.Role))
	dst = appendUint(dst, uint64(t.UsesLeft))
	dst = appendInt(dst, t.ExpiresUnix)
	dst = appendUint(dst, uint64(len(t.UsedBy)))
	for _, id := range t.UsedBy {
		dst = appendString(dst, id)
	}
	return dst
}

func readToken(r *reader) Token {
	t := Token{ID: r.string(), SecretHash: r.hash32(), Role: Role(r.byte()), UsesLeft: uint32(r.uint()), ExpiresUnix: r.int()}
	n := r.count()
	for i := 0; i < n && !r.failed; i++ {
		t.UsedBy = append(t.UsedBy, r.string())
	}
	return t
}

func appendMap(dst []byte, m map[string]string) []byte {
	dst = appendUint(dst, uint64(len(m)))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		dst = appendString(dst, k)
		dst = appendString(dst, m[k])
	}
	return dst
}

func readMap(r *reader) map[string]string {
	n := r.count()
	if n == 0 {
		return nil
	}
	m := make(map[string]string)
	for i := 0; i < n && !r.failed; i++ {
		k := r.string()
		m[k] = r.string()
	}
	return m
}
