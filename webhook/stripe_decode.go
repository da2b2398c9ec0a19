package webhook

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"rebound/handler"
)

// DecodeOptions are what a decoder must be told.
type DecodeOptions struct {
	// SessionKey, EmailKey and LocaleKey name the merchant's own metadata: presence (on_session or off_session), address
	// and language. An empty name reads none.
	SessionKey, EmailKey, LocaleKey string
	// HashClientSecret gives the keyed hash of an intent's client secret, which itself is never kept, and of an id in which
	// a number was masked. Nil keeps nothing.
	HashClientSecret func(secret string) []byte
	// Now stands in for an event's time where the event has none that could be true. Nil means time.Now.
	Now func() time.Time
}

// Use says what became of an event.
type Use string

// The uses of an event.
const (
	Used        Use = "recorded"    // it gave facts, or a customer
	Ignored     Use = "ignored"     // its type gives nothing
	Quarantined Use = "quarantined" // its type is used, and its body cannot be
)

// Outcome describes a decoded event without anything private: it is fit for a log.
type Outcome struct {
	EventID    string
	EventType  string
	APIVersion string
	Account    string
	Livemode   bool
	Created    int64 // Unix seconds
	ObjectID   string
	PaymentID  string // of the first fact
	Use        Use
	Reason     string   // why it is quarantined
	Misfits    []string // fields of the wrong kind, which were left empty
	Masked     int      // card numbers found in texts and masked
}

// ErrUnreadable means that a body has no readable envelope: no JSON, no object, or neither id nor type.
var ErrUnreadable = errors.New("the event cannot be read")

// DecodeStripe reduces a Stripe event of any API version since 2012 to what Rebound keeps. An event whose type gives
// nothing comes to an empty delivery; one of a used type whose body has no usable object, as thin events have none, to a
// quarantined copy. The error is ErrUnreadable, wrapped. Nothing returned shares memory with body.
func DecodeStripe(body []byte, opts DecodeOptions) (handler.Delivery, Outcome, error) {
	r := newReader(body)
	defer r.release()
	r.keyed = opts.HashClientSecret

	keys := metadataKeys{session: opts.SessionKey, email: opts.EmailKey, locale: opts.LocaleKey}
	var e stripeEvent
	e.read(r, keys)
	if err := r.end(); err != nil {
		// The parser's own words may quote the body.
		return handler.Delivery{}, Outcome{}, fmt.Errorf("%w: it is not one JSON document", ErrUnreadable)
	}
	if e.id == "" || e.eventType == "" {
		return handler.Delivery{}, Outcome{}, fmt.Errorf("%w: it has no id or no type", ErrUnreadable)
	}
	if e.created == 0 {
		now := time.Now
		if opts.Now != nil {
			now = opts.Now
		}
		e.created = now().Unix()
	}

	out := Outcome{
		EventID: e.id, EventType: e.eventType, APIVersion: e.apiVersion, Account: e.account, Livemode: e.livemode,
		Created: e.created, ObjectID: e.object.id, Use: Ignored, Masked: r.masked,
	}
	give, used := stripeTypes[e.eventType]
	thin := thinType(e.eventType)
	if !used && !thin {
		return handler.Delivery{}, out, nil
	}
	out.Misfits = r.misfits

	switch {
	case thin:
		// Its destination was set up by mistake: were its events ignored, every failure would be lost unseen.
		out.Reason = "thin_event"
	case !e.hasObject:
		out.Reason = "no_object"
	case e.object.id == "":
		out.Reason = "no_object_id"
	case e.accountMisfit:
		// Filed under the platform's own account it could reach a stranger's customer.
		out.Reason = "unreadable_account"
	}
	if out.Reason != "" {
		q := handler.Quarantined{Source: sourceStripe, EventID: e.id, EventType: e.eventType, Reason: out.Reason}
		q.Body, out.Masked = withoutSecrets(body)
		out.Use = Quarantined
		return handler.Delivery{Quarantine: &q}, out, nil
	}

	d := give(&e)
	if len(d.Facts) > 0 {
		out.PaymentID = d.Facts[0].PaymentID
		if s := e.object.clientSecret; s != "" && opts.HashClientSecret != nil &&
			strings.HasPrefix(e.eventType, "payment_intent.") {
			d.Facts[0].ClientSecretHash = opts.HashClientSecret(s)
		}
	}
	if len(d.Facts) > 0 || d.Customer != nil {
		out.Use = Used
	}
	return d, out, nil
}

const sourceStripe = "stripe"

// thinType says that events of a type are the thin form of those of a used one.
func thinType(eventType string) bool {
	snapshot, thin := strings.CutPrefix(eventType, "v1.")
	_, used := stripeTypes[snapshot]
	return thin && used
}

// stripeEvent is the envelope with its object.
type stripeEvent struct {
	id, eventType, apiVersion, account string
	created                            int64
	livemode                           bool
	requestOrigin                      string
	object                             stripeObject
	hasObject, accountMisfit           bool
}

func (e *stripeEvent) read(r *reader, keys metadataKeys) {
	livemodeRead, contextMisfit := false, false
	var context string
	r.object("event", func(member []byte) {
		switch string(member) {
		case "id":
			r.id("event.id", &e.id)
		case "type":
			r.id("event.type", &e.eventType)
		case "api_version":
			r.text("event.api_version", maxCode, &e.apiVersion)
		case "created":
			r.time("event.created", &e.created) // a text in thin events
		case "livemode":
			livemodeRead = r.kind() == 't' || r.kind() == 'f'
			r.flag("event.livemode", &e.livemode)
		case "account", "user_id": // user_id on Connect events before 2015
			if r.kind() == 'n' {
				r.skip()
				return
			}
			e.accountMisfit = !r.ref("event.account", &e.account)
		case "context":
			null := r.kind() == 'n'
			contextMisfit = !r.id("event.context", &context) && !null
		case "request":
			e.readRequest(r)
		case "data":
			e.hasObject = false
			r.object("event.data", func(member []byte) {
				if string(member) == "object" {
					e.hasObject = keys.object(r, "event.data.object", &e.object, false)
				} else {
					r.skip()
				}
			})
		default:
			r.skip()
		}
	})
	if !livemodeRead {
		e.livemode = e.object.livemode
	}
	// An organization's endpoint gets the events of several accounts, and only their context says of which: the last of
	// a path. Other events without an account have no context.
	if e.account == "" {
		e.accountMisfit = e.accountMisfit || contextMisfit
		if last := context[strings.LastIndexByte(context, '/')+1:]; strings.HasPrefix(last, "acct_") {
			e.account = last
		}
	}
}

// readRequest tells an event that an API call caused from one that Stripe caused itself. Until 2017 the member is the
// call's id or null, since then an object that has it. An id that cannot be read says neither: taken for none, it would be
// proof that nobody was there.
func (e *stripeEvent) readRequest(r *reader) {
	e.requestOrigin = ""
	readID := func() {
		null := r.kind() == 'n'
		var id string
		if read := r.id("event.request", &id); !read && !null {
			return
		}
		if e.requestOrigin = "none"; id != "" {
			e.requestOrigin = "api"
		}
	}
	if kind := r.kind(); kind == 'n' || kind == '"' {
		readID()
		return
	}
	r.object("event.request", func(member []byte) {
		if string(member) == "id" {
			readID()
		} else {
			r.skip()
		}
	})
}
