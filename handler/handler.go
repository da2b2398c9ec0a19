// Package handler gives the facts of a payment their meaning: it derives attempts and state from the whole set of them,
// classifies each failure, decides who is told, and records all of it in one transaction for every group of deliveries
// that wait at the same moment.
package handler

import (
	"errors"

	"rebound/store"
)

// Fact is what one rendering of one event says; the door fills it in.
type Fact = store.Fact

// PaymentKey files everything about one payment.
type PaymentKey = store.PaymentKey

// Contact is where a person can be reached.
type Contact = store.Contact

// Customer is what a provider says of a customer.
type Customer = store.Customer

// Quarantined is a signed event that could not be used as it is.
type Quarantined = store.Quarantined

// Delivery is what one signed event comes to. It may hold several facts (an invoice's event also says something of its
// payment) or none at all.
type Delivery struct {
	Facts      []Fact
	Customer   *Customer
	Quarantine *Quarantined
}

// ErrBusy is returned when so many deliveries wait that another could not be stored in time.
var ErrBusy = errors.New("too many deliveries are waiting to be stored")
