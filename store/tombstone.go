package store

import (
	"regexp"

	"github.com/jackc/pgx/v5"
)

// tombstones are those of a group's facts: they are asked for in the transaction that records the group, once its
// payments are locked, and answer after the batch.
type tombstones struct {
	store *Store
	found map[string]bool
}

// erasureLock is held shared by whoever stores events and alone by whoever lays a tombstone: once it is laid, every
// transaction that did not see it has committed.
const erasureLock = 0x65726173

const holdErasures = `SELECT pg_advisory_xact_lock_shared($1)`

// queueTombstones asks which of the facts' customers, payments and events are gone.
func (s *Store) queueTombstones(b *pgx.Batch, facts []*Fact) *tombstones {
	t := &tombstones{store: s, found: make(map[string]bool)}
	var asked [][]byte
	once := make(map[string]bool)
	ask := func(hash []byte) {
		if !once[string(hash)] {
			once[string(hash)] = true
			asked = append(asked, hash)
		}
	}
	for _, f := range facts {
		ask(s.paymentTombstone(f.PaymentKey))
		if f.Customer != "" {
			ask(s.customerTombstone(f.Customer))
		}
		if f.Source == sourceFrame {
			ask(s.eventTombstone(f.EventID, f.EventType))
		}
	}
	if len(asked) > 0 {
		b.Queue(`SELECT hash FROM tombstones WHERE hash = ANY($1)`, asked).Query(func(rows pgx.Rows) error {
			hashes, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
			for _, h := range hashes {
				t.found[string(h)] = true
			}
			return err
		})
	}
	return t
}

// seen tells whether a fact is of an event of Frame that had its effect before its failure was dropped.
func (t *tombstones) seen(f *Fact) bool {
	return f.Source == sourceFrame && t.found[string(t.store.eventTombstone(f.EventID, f.EventType))]
}

// anonymise takes the identity out of a fact, before it is sealed, when its customer or payment was erased.
func (t *tombstones) anonymise(f *Fact) {
	if t.found[string(t.store.paymentTombstone(f.PaymentKey))] ||
		f.Customer != "" && t.found[string(t.store.customerTombstone(f.Customer))] {
		t.store.anonymise(f)
	}
}

const sourceFrame = "frame"

// tombstoneSize is in bytes: 128 bits, as in ids.
const tombstoneSize = 16

// customerTombstone does not hold the source or account: whoever asks to be forgotten is to be forgotten everywhere.
func (s *Store) customerTombstone(id string) []byte {
	return s.hasher.Hash("erased-customer", id)[:tombstoneSize]
}

func (s *Store) paymentTombstone(k PaymentKey) []byte {
	return s.hasher.Hash("erased-payment", k.Source, k.Account, k.PaymentID)[:tombstoneSize]
}

// eventTombstone holds the type, since mock servers repeat one id over types, and no payment: one event may tell of two.
func (s *Store) eventTombstone(id, eventType string) []byte {
	return s.hasher.Hash("seen-event", id, eventType)[:tombstoneSize]
}

// idLike finds what may be an id in a body of any shape.
var idLike = regexp.MustCompile(`[A-Za-z0-9_-]{4,255}`)

// tombstonesIn are those that would be laid for the customers whom a body that cannot be read may name.
func (s *Store) tombstonesIn(body []byte) (hashes [][]byte) {
	once := make(map[string]bool)
	for _, id := range idLike.FindAll(body, -1) {
		if !once[string(id)] {
			once[string(id)] = true
			hashes = append(hashes, s.customerTombstone(string(id)))
		}
	}
	return hashes
}
