package mbox

import "testing"

func TestUTF7(t *testing.T) {
	for text, wire := range map[string]string{
		"INBOX":       "INBOX",
		"Tom & Jerry": "Tom &- Jerry",
		"Entwürfe":    "Entw&APw-rfe",
		"台北":          "&U,BTFw-",
		"日本語/x":       "&ZeVnLIqe-/x",
		"😀":           "&2D3eAA-",
	} {
		if got, err := EncodeUTF7(text); err != nil || got != wire {
			t.Errorf("encode %q: got %q %v, want %q", text, got, err, wire)
		}
		if got, err := DecodeUTF7(wire); err != nil || got != text {
			t.Errorf("decode %q: got %q %v, want %q", wire, got, err, text)
		}
	}
	for _, wire := range []string{"&", "a&b", "&AGE-", "&APw", "&AP-", "&2D0-", "&3gA-", "Entw\xfcrfe", "&APw-&APw-", "&AAo-", "&APx-"} {
		if got, err := DecodeUTF7(wire); err == nil {
			t.Errorf("decode %q: got %q, want a refusal", wire, got)
		}
	}
	for _, text := range []string{"\xff", "a\nb"} {
		if got, err := EncodeUTF7(text); err == nil {
			t.Errorf("encode %q: got %q, want a refusal", text, got)
		}
	}
}

func FuzzUTF7(f *testing.F) {
	f.Add("Entw&APw-rfe")
	f.Add("&2D3eAA-&-")
	f.Fuzz(func(t *testing.T, s string) {
		text, err := DecodeUTF7(s)
		if err != nil {
			return
		}
		if back, err := EncodeUTF7(text); err != nil || back != s {
			t.Fatalf("%q reads as %q, which is written %q (%v)", s, text, back, err)
		}
	})
}
