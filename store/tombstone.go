package store

import "regexp"

// tombstones are those of a group's facts: they are asked for in the transaction that records the group, once its
// payments are locked, and answer after the batch.
type tombstones struct {
	store *Store
	asked [][]byte
	found map[string]bool
}

// erasureLock is held shared by whoever stores events and alone by whoever lays a tombstone: once it is laid, every
// transaction that did not see it has committed.
const erasureLock = 0x65726173

const holdErasures = `SELECT pg_advisory_xact_lock_shared($1)`

// tombstone is a row of the table.
type tombstone struct {
	Hash []byte `db:"hash"`
}

// tombstonesOf are what may say that the facts' customers, payments and events are gone.
func (s *Store) tombstonesOf(facts []*Fact) *tombstones {
	t := &tombstones{store: s, found: make(map[string]bool)}
	once := make(map[string]bool)
	ask := func(hash []byte) {
		if !once[string(hash)] {
			once[string(hash)] = true
			t.asked = append(t.asked, hash)
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
	return t
}

func (t *tombstones) add(row tombstone) { t.found[string(row.Hash)] = true }

// seen tells whether a fact is of an event of Frame that had its effect before its failure was dropped.
func (t *tombstones) seen(f *Fact) bool {
	return f.Source == sourceFrame && t.found[string(t.store.eventTombstone(f.EventID, f.EventType))]
}

// anonymise takes the identity out of a fact, before it is sealed, when its customer or payment was erased.
func (t *tombstones) anonymise(f *Fact) {
	if len(t.found) == 0 {
		return // as nearly always, and hashes cost
	}
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
