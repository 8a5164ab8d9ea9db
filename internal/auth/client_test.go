package auth

import (
	"strconv"
	"strings"
	"testing"

	"github.com/xdg-go/scram"
)

func TestScramClient(t *testing.T) {
	for _, mech := range []string{ScramSHA256, ScramSHA1} {
		generator := map[string]scram.HashGeneratorFcn{ScramSHA256: scram.SHA256, ScramSHA1: scram.SHA1}[mech]
		stored, err := generator.NewClient("murder", "labpass", "")
		if err != nil {
			t.Fatal(err)
		}
		server, err := generator.NewServer(func(string) (scram.StoredCredentials, error) {
			return stored.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "0123456789", Iters: 4096})
		})
		if err != nil {
			t.Fatal(err)
		}
		client, err := NewScramClient(mech, "murder", "labpass", "alice")
		if err != nil {
			t.Fatal(err)
		}
		conv := server.NewConversation()
		_, response, err := client.Start()
		for range 2 {
			if err != nil {
				t.Fatal(err)
			}
			challenge, err := conv.Step(string(response))
			if err != nil {
				t.Fatal(err)
			}
			if response, err = client.Next([]byte(challenge)); err != nil {
				t.Fatal(err)
			}
		}
		if !conv.Valid() || conv.AuthzID() != "alice" || response == nil || len(response) != 0 {
			t.Errorf("%s: valid %v, authzid %q, last response %q", mech, conv.Valid(), conv.AuthzID(), response)
		}
	}
	client, _ := NewScramClient(ScramSHA256, "murder", "labpass", "")
	_, first, _ := client.Start()
	nonce := strings.TrimPrefix(string(first[strings.Index(string(first), "r="):]), "r=")
	if _, err := client.Next([]byte("r=" + nonce + "x,s=AAAA,i=" + strconv.Itoa(maxClientIterations+1))); err == nil {
		t.Error("a server may keep us busy for ever")
	}
}
