package seal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"hash"
	"sync"
)

// Hasher makes keyed hashes (HMAC-SHA256) and ids. Each purpose has a key of its
// own, so equal inputs for two purposes have unrelated hashes. It is safe for
// concurrent use.
type Hasher struct {
	root     RootKey
	purposes sync.Map // purpose → *sync.Pool of *mac; purposes are constants, so it stays small
}

// mac is one ready HMAC. hmac keeps the state after the key block from its first
// Reset on, so a reused one costs half of a new one.
type mac struct {
	hash hash.Hash
	in   []byte
	out  [sha256.Size]byte
}

// NewHasher returns the Hasher of a database's root key.
func NewHasher(root RootKey) *Hasher { return &Hasher{root: root} }

// Hash returns 32 bytes: the HMAC of the parts, each preceded by its length, so
// that ("ab","c") and ("a","bc") differ. purpose is a constant of the program,
// never data.
func (h *Hasher) Hash(purpose string, parts ...string) []byte {
	out := make([]byte, sha256.Size)
	h.sum(purpose, parts, out)
	return out
}

// idEncoding is Crockford's alphabet in lower case: no i, l, o or u, so an id
// survives being read aloud, and one case, so it survives a case-folding index.
var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// idBytes makes 128 bits: the chance that any two of 10^12 ids collide is below 10^-14.
const idBytes = 16

// ID returns prefix followed by 26 characters of [0-9a-z], 128 bits of the hash
// of the parts. Equal input gives the same id for the life of the database.
func (h *Hasher) ID(prefix, purpose string, parts ...string) string {
	var sum [sha256.Size]byte
	h.sum(purpose, parts, sum[:])
	var buf [64]byte
	return string(idEncoding.AppendEncode(append(buf[:0], prefix...), sum[:idBytes]))
}

// HashClientSecret returns the hash under which a payment intent's client secret
// is kept.
func (h *Hasher) HashClientSecret(secret string) []byte { return h.Hash("client-secret", secret) }

// HashMailbox returns the hash of a mailbox for limits and suppressions. The
// caller normalises it first (case, tag, dots, IDN).
func (h *Hasher) HashMailbox(mailbox string) []byte { return h.Hash("mailbox", mailbox) }

func (h *Hasher) sum(purpose string, parts []string, out []byte) {
	pool := h.pool(purpose)
	m := pool.Get().(*mac)
	m.in = m.in[:0]
	for _, p := range parts {
		m.in = binary.AppendUvarint(m.in, uint64(len(p)))
		m.in = append(m.in, p...)
	}
	m.hash.Reset()
	m.hash.Write(m.in)
	copy(out, m.hash.Sum(m.out[:0]))
	clear(m.in) // secrets pass through here; do not keep them in the pool
	pool.Put(m)
}

func (h *Hasher) pool(purpose string) *sync.Pool {
	if p, ok := h.purposes.Load(purpose); ok {
		return p.(*sync.Pool)
	}
	key := derive(h.root.bytes[:], "rebound/hash/v1/"+purpose)
	p, _ := h.purposes.LoadOrStore(purpose, &sync.Pool{New: func() any {
		return &mac{hash: hmac.New(sha256.New, key), in: make([]byte, 0, 256)}
	}})
	return p.(*sync.Pool)
}
