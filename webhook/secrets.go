package webhook

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
)

// withoutSecrets is a copy of a JSON document in which every client_secret and every next_action, which holds the same
// power over a payment, is null, wherever it stands. All other bytes stay as they are.
func withoutSecrets(body []byte) []byte {
	dec := jsontext.NewDecoder(bytes.NewReader(body), readerOptions...)
	out := make([]byte, 0, len(body))
	kept := 0
	for {
		token, err := dec.ReadToken()
		if err != nil {
			return append(out, body[kept:]...)
		}
		if in, n := dec.StackIndex(dec.StackDepth()); in != '{' || n%2 == 0 || token.Kind() != '"' {
			continue // no member's name
		}
		if name := token.String(); name != "client_secret" && name != "next_action" {
			continue
		}
		value, err := dec.ReadValue()
		if err != nil {
			return out // the decoder has read this body before, so this does not happen; what follows is not known to be safe
		}
		end := int(dec.InputOffset())
		out = append(append(out, body[kept:end-len(value)]...), "null"...)
		kept = end
	}
}
