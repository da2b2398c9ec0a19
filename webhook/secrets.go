package webhook

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
)

// withoutSecrets is a copy of a JSON document that may be kept aside. Every client_secret in it is null, and so is every
// next_action (until 2019 next_source_action), which holds the same power over a payment; card numbers are masked, as in
// every text that is kept but ids and addresses. A client secret inside another text is left out of it. All other bytes stay
// as they are. It says how many numbers it masked.
func withoutSecrets(body []byte) (safe []byte, masked int) {
	dec := jsontext.NewDecoder(bytes.NewReader(body), readerOptions...)
	safe = make([]byte, 0, len(body))
	kept := 0
	replace := func(value jsontext.Value, by []byte) {
		end := int(dec.InputOffset())
		safe = append(append(safe, body[kept:end-len(value)]...), by...)
		kept = end
	}
	for {
		if dec.PeekKind() != '"' {
			if _, err := dec.ReadToken(); err != nil {
				return append(safe, body[kept:]...), masked
			}
			continue
		}
		value, err := dec.ReadValue()
		unquoted, _ := jsontext.AppendUnquote(nil, value) // its error says only that something invalid was replaced
		text := string(unquoted)
		if in, n := dec.StackIndex(dec.StackDepth()); err == nil && in == '{' && n%2 == 1 { // a member's name
			switch text {
			case "client_secret", "next_action", "next_source_action":
				if value, err = dec.ReadValue(); err == nil {
					replace(value, []byte("null"))
					continue
				}
			}
		}
		if err != nil {
			return safe, masked // the decoder has read this body before, so this does not happen; what follows is not known to be safe
		}
		clean, n := secretLike.ReplaceAllString(text, "…"), 0
		if !providersID(text) && addressLike.FindString(text) != text { // an erasure looks for addresses
			clean, n = maskCardNumbers(clean)
		}
		if clean != text {
			quoted, _ := jsontext.AppendQuote(nil, clean)
			replace(value, quoted)
			masked += n
		}
	}
}
