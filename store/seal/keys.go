// Package seal keeps secrets: it encrypts what is stored only for a while
// (addresses, quarantined bodies) under the keys of ENCRYPTION_KEY, and makes
// the keyed hashes (ids, mailboxes, client secrets) that must stay the same for
// as long as the database lives, whichever of those keys is current.
//
// Two kinds of key follow from that. The listed keys rotate: the first encrypts,
// all of them decrypt. The root key is made once, stored wrapped by a listed key,
// and never changes, so a hash computed before a rotation is found after it.
package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// KeySize is the length of every key in bytes.
const KeySize = 32

// Key is one encryption key of the configuration. It prints as its id, so that
// a configuration that is logged or dumped does not give it away. The bytes sit
// behind a pointer because fmt ignores methods of values in unexported fields,
// but prints a nested pointer as an address.
type Key struct {
	bytes *[KeySize]byte
}

// ID returns eight hex digits that name the key without revealing it. The id of
// the key that sealed a value is part of the value.
func (k Key) ID() string {
	id := k.id()
	return hex.EncodeToString(id[:])
}

// Format writes the key's id for every verb, %x and %#v included.
func (k Key) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "key "+k.ID())
}

// MarshalText gives the key's id, never the key, to encoders such as JSON.
func (k Key) MarshalText() ([]byte, error) { return []byte("key " + k.ID()), nil }

func (k Key) id() (id [idSize]byte) {
	copy(id[:], derive(k.bytes[:], "rebound/key-id/v1"))
	return id
}

// Guessable tells whether the key is one byte repeated, which nothing random is.
func (k Key) Guessable() bool {
	return bytes.Count(k.bytes[:], k.bytes[:1]) == KeySize
}

// GenerateKey returns a new key in the form that ENCRYPTION_KEY takes.
func GenerateKey() string {
	var b [KeySize]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead (crypto/rand)
	return base64.StdEncoding.EncodeToString(b[:])
}

// ParseKeys reads a comma separated list of 32-byte keys in base64, standard or
// URL alphabet, padded or not. Spaces around an item are ignored. Every fault of
// the list is reported, by the number of its item and never by its text.
func ParseKeys(list string) ([]Key, error) {
	if strings.TrimSpace(list) == "" {
		return nil, errors.New("no key: want a comma separated list of 32-byte keys in base64")
	}
	items := strings.Split(list, ",")
	keys := make([]Key, 0, len(items))
	seen := make(map[[KeySize]byte]int, len(items))
	var faults []error
	for i, item := range items {
		key, err := parseKey(strings.TrimSpace(item))
		if err != nil {
			faults = append(faults, fmt.Errorf("key %d of %d %w", i+1, len(items), err))
			continue
		}
		if first, dup := seen[*key.bytes]; dup {
			faults = append(faults, fmt.Errorf("key %d of %d repeats key %d", i+1, len(items), first))
			continue
		}
		seen[*key.bytes] = i + 1
		keys = append(keys, key)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return keys, nil
}

func parseKey(item string) (Key, error) {
	if item == "" {
		return Key{}, errors.New("is empty")
	}
	std := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(item, "="))
	raw, err := base64.RawStdEncoding.DecodeString(std)
	if err != nil {
		// The decoder's error carries an offset only, but it adds nothing either.
		return Key{}, errors.New("is not base64")
	}
	if len(raw) != KeySize {
		return Key{}, fmt.Errorf("has %d bytes, want %d", len(raw), KeySize)
	}
	return Key{bytes: (*[KeySize]byte)(raw)}, nil
}

// derive makes an independent 32-byte key for one purpose (RFC 5869). A key is
// never used for two things: what wraps the root key cannot open an address.
func derive(secret []byte, purpose string) []byte {
	key, err := hkdf.Key(sha256.New, secret, nil, purpose, KeySize)
	if err != nil { // only for outputs over 255 hashes long, or short secrets in FIPS-only mode
		panic("seal: deriving a key: " + err.Error())
	}
	return key
}
