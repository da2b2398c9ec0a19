package checkout

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"rebound/decline"
)

// message is one event of the stream, ready to be written.
type message struct {
	event string // payment_failed, payment_succeeded
	id    string
	data  []byte // JSON on one line
	shown Shown  // zero for a success
}

// failed is the data of payment_failed; the order of its members is part of the contract.
type failed struct {
	PaymentIntent   string         `json:"payment_intent"`
	Code            string         `json:"code"`
	Message         string         `json:"message"`
	NextStep        string         `json:"next_step"`
	Field           *decline.Field `json:"field"`
	RetrySameMethod bool           `json:"retry_same_method"`
	Locale          string         `json:"locale"`
}

type succeeded struct {
	PaymentIntent string `json:"payment_intent"`
}

// messageOf is what the page of a payment in this state must know, and false when that is nothing. sharp is the moment
// from which an attempt that still awaits its charge may be told specifically.
func messageOf(s State, acceptLanguage string, now, sharp time.Time) (message, bool) {
	intent := s.PaymentIntent
	if intent == "" {
		intent = s.PaymentID
	}
	switch {
	case s.Status == "recovered":
		return newMessage("payment_succeeded", "", succeeded{intent}), true
	case s.Status != "failing" || s.AttemptID == "":
		return message{}, false
	}
	public := s.Public
	// A stored generic decline is told by today's words too: beside one that an older program stored, a difference in
	// another member would tell them apart.
	if public.Code == decline.GenericDecline || s.AwaitsCharge && now.Before(sharp) {
		public = decline.Generic()
	}
	text := public.Message(decline.MatchLocale(s.Locale, acceptLanguage))
	f := failed{
		PaymentIntent:   intent,
		Code:            public.Code,
		Message:         text.Text,
		NextStep:        string(public.NextStep),
		RetrySameMethod: public.RetrySameMethod,
		Locale:          text.Locale,
	}
	if public.Field != decline.NoField {
		f.Field = &public.Field
	}
	m := newMessage("payment_failed", s.AttemptID, f)
	m.shown = Shown{Key: s.Key, AttemptID: s.AttemptID, Code: public.Code, Locale: text.Locale, At: now}
	return m, true
}

// newMessage derives the id from the attempt and everything that the customer can see: equal ids mean that there is
// nothing new to tell, also across replicas and restarts, and an id says nothing by its shape.
func newMessage(event, attempt string, data any) message {
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(data); err != nil {
		panic(err) // strings and booleans always encode
	}
	m := message{event: event, data: bytes.TrimSuffix(line.Bytes(), []byte("\n"))}
	sum := sha256.New()
	for _, part := range [][]byte{[]byte(attempt), []byte(event), m.data} {
		sum.Write(part)
		sum.Write([]byte{0})
	}
	m.id = hex.EncodeToString(sum.Sum(nil)[:16])
	return m
}

// frame is the message as Server-Sent Events have it.
func (m message) frame() []byte {
	var b bytes.Buffer
	b.WriteString("id: " + m.id + "\nevent: " + m.event + "\ndata: ")
	b.Write(m.data)
	b.WriteString("\n\n")
	return b.Bytes()
}
