package auth

import (
	"errors"
	"strconv"
	"strings"

	"github.com/emersion/go-sasl"
	"github.com/xdg-go/scram"
)

// maxClientIterations bounds what a server may ask a SCRAM client to compute: the number is the server's
// choice but our time.
const maxClientIterations = 1 << 17

// scramClient adapts xdg-go's conversation to sasl.Client.
type scramClient struct {
	mech string
	conv *scram.ClientConversation
}

// NewScramClient returns the client of SCRAM-SHA-1 or SCRAM-SHA-256, without channel binding, to act as
// authz ("" for the user).
func NewScramClient(mech, user, password, authz string) (sasl.Client, error) {
	generator := scram.SHA256
	if mech == ScramSHA1 {
		generator = scram.SHA1
	}
	client, err := generator.NewClient(user, password, authz)
	if err != nil {
		client, err = generator.NewClientUnprepped(user, password, authz)
	}
	if err != nil {
		return nil, err
	}
	return &scramClient{mech: mech, conv: client.NewConversation()}, nil
}

func (c *scramClient) Start() (mech string, ir []byte, err error) {
	first, err := c.conv.Step("")
	return c.mech, []byte(first), err
}

// Next implements sasl.Client. The answer to the server's final message is empty, not nil.
func (c *scramClient) Next(challenge []byte) ([]byte, error) {
	if c.conv.Done() {
		return nil, sasl.ErrUnexpectedServerChallenge
	}
	for field := range strings.SplitSeq(string(challenge), ",") {
		if digits, ok := strings.CutPrefix(field, "i="); ok {
			if n, err := strconv.Atoi(digits); err != nil || n > maxClientIterations {
				return nil, errors.New("scram: too many iterations")
			}
		}
	}
	answer, err := c.conv.Step(string(challenge))
	return []byte(answer), err
}
