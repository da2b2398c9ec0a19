package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
)

// A sealed value is: version (1) | key id (4) | nonce (12) | ciphertext | tag (16).
const (
	version   = 1
	idSize    = 4
	nonceSize = 12
	tagSize   = 16
	header    = 1 + idSize + nonceSize

	// Overhead is how many bytes longer a sealed value is than its plaintext.
	Overhead = header + tagSize
)

var (
	// ErrUnknownKey says that the key which sealed a value is not in the list: it
	// was removed before everything under it was gone.
	ErrUnknownKey = errors.New("sealed with a key that is not configured")
	// ErrTampered says that a value does not open under the right key: it was
	// changed, cut, or belongs to another context (table).
	ErrTampered = errors.New("sealed value is damaged or belongs elsewhere")
)

// Sealer encrypts and decrypts under a list of keys. It is safe for concurrent
// use.
type Sealer struct {
	keys []sealerKey
}

type sealerKey struct {
	id   [idSize]byte
	data cipher.AEAD
	wrap cipher.AEAD
}

// NewSealer returns a Sealer whose first key encrypts and whose keys all decrypt.
func NewSealer(keys []Key) (*Sealer, error) {
	if len(keys) == 0 {
		return nil, errors.New("no encryption key")
	}
	s := &Sealer{keys: make([]sealerKey, len(keys))}
	for i, k := range keys {
		s.keys[i] = sealerKey{
			id:   k.id(),
			data: newGCM(derive(k.bytes[:], "rebound/seal/v1")),
			wrap: newGCM(derive(k.bytes[:], "rebound/wrap/v1")),
		}
	}
	return s, nil
}

// newGCM panics on a key of a wrong length only, which derive cannot return.
func newGCM(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("seal: " + err.Error())
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic("seal: " + err.Error())
	}
	return gcm
}

// Seal encrypts plaintext with AES-256-GCM under the first key and a random
// nonce. context is not stored; the value opens only with the same context, so
// give it the table's name: a value copied to another table then does not open.
// Two calls never give the same bytes. One key may seal 2^32 values
// (NIST SP 800-38D §8.3), about 16 years at 8 a second.
func (s *Sealer) Seal(plaintext, context []byte) []byte {
	return s.keys[0].seal(s.keys[0].data, plaintext, context)
}

// Open decrypts a sealed value. Its errors are ErrUnknownKey and ErrTampered.
func (s *Sealer) Open(sealed, context []byte) ([]byte, error) {
	plaintext, _, err := s.open(sealed, context, func(k *sealerKey) cipher.AEAD { return k.data })
	return plaintext, err
}

func (k *sealerKey) seal(aead cipher.AEAD, plaintext, context []byte) []byte {
	out := make([]byte, header, len(plaintext)+Overhead)
	out[0] = version
	copy(out[1:], k.id[:])
	nonce := out[1+idSize : header]
	_, _ = rand.Read(nonce) // never fails: it ends the program instead (crypto/rand)
	return aead.Seal(out, nonce, plaintext, additional(out[:1+idSize], context))
}

func (s *Sealer) open(sealed, context []byte, use func(*sealerKey) cipher.AEAD) (plaintext []byte, current bool, err error) {
	if len(sealed) < Overhead || sealed[0] != version {
		return nil, false, ErrTampered
	}
	id := [idSize]byte(sealed[1 : 1+idSize])
	found := false
	for i := range s.keys {
		// Ids are 32 bits: two keys may share one, so go on after a failure.
		if s.keys[i].id != id {
			continue
		}
		found = true
		plaintext, err := use(&s.keys[i]).Open(nil, sealed[1+idSize:header], sealed[header:], additional(sealed[:1+idSize], context))
		if err == nil {
			return plaintext, i == 0, nil
		}
	}
	if !found {
		return nil, false, fmt.Errorf("%w (key %s)", ErrUnknownKey, hex.EncodeToString(id[:]))
	}
	return nil, false, ErrTampered
}

// additional binds version and key id as well. Their length is fixed, so no
// context can be mistaken for them.
func additional(head, context []byte) []byte {
	return append(append(make([]byte, 0, len(head)+len(context)), head...), context...)
}

// RootKey is what all keyed hashes of one database come from. It is made once,
// stored wrapped, and never changes.
type RootKey struct {
	bytes *[KeySize]byte // behind a pointer for the reason that Key gives
}

// NewRootKey makes a root key for a new database.
func NewRootKey() RootKey {
	r := RootKey{bytes: new([KeySize]byte)}
	_, _ = rand.Read(r.bytes[:]) // never fails: it ends the program instead (crypto/rand)
	return r
}

// Format writes a fixed text for every verb, so that a root key cannot be logged.
func (r RootKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("root key")) }

var rootContext = []byte("root key")

// Wrap encrypts the root key under the first key, for storing.
func (s *Sealer) Wrap(root RootKey) []byte {
	return s.keys[0].seal(s.keys[0].wrap, root.bytes[:], rootContext)
}

// Unwrap decrypts a stored root key. rewrapNeeded is true when it was wrapped by
// another key than the first: store Wrap(root) then, so that the old key may go.
func (s *Sealer) Unwrap(wrapped []byte) (root RootKey, rewrapNeeded bool, err error) {
	plaintext, current, err := s.open(wrapped, rootContext, func(k *sealerKey) cipher.AEAD { return k.wrap })
	if err != nil {
		return RootKey{}, false, fmt.Errorf("unwrapping the root key: %w", err)
	}
	if len(plaintext) != KeySize {
		return RootKey{}, false, fmt.Errorf("unwrapping the root key: %w", ErrTampered)
	}
	return RootKey{bytes: (*[KeySize]byte)(plaintext)}, !current, nil
}
