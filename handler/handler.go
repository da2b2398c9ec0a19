// Package handler gives the facts of a payment their meaning: it derives attempts and state from the whole set of them,
// classifies each failure, decides who is told, and records all of it in one transaction for every group of deliveries
// that wait at the same moment.
package handler

import (
	"errors"

	"rebound/store"
)

// The rows that the door fills in; see package store for their fields.
type (
	Fact        = store.Fact
	PaymentKey  = store.PaymentKey
	Contact     = store.Contact
	Customer    = store.Customer
	Quarantined = store.Quarantined
)

// Delivery is what one signed event comes to. It may hold several facts (an invoice's event also says something of its
// payment) or none at all.
type Delivery struct {
	Facts      []Fact
	Customer   *Customer
	Quarantine *Quarantined
}

// ErrBusy is returned when so many deliveries wait that another could not be stored in time.
var ErrBusy = errors.New("too many deliveries are waiting to be stored")
