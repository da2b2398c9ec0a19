package store

import (
	"strings"
	"time"
)

// PaymentKey files everything about one payment. Every part is needed: the same ids exist in different accounts, modes
// and providers, and must never meet.
type PaymentKey struct {
	PaymentID string `db:"payment_id"` // payment intent, else charge, else transfer; of an invoice's events the invoice
	Source    string `db:"source"`     // stripe, frame
	Account   string `db:"account"`    // connected account; '' for the platform's own
	Livemode  bool   `db:"livemode"`
}

// Compare orders keys; rows are locked in this order by every replica, so that no two wait for each other.
func (k PaymentKey) Compare(o PaymentKey) int {
	if c := strings.Compare(k.PaymentID, o.PaymentID); c != 0 {
		return c
	}
	if c := strings.Compare(k.Source, o.Source); c != 0 {
		return c
	}
	if c := strings.Compare(k.Account, o.Account); c != 0 {
		return c
	}
	switch {
	case k.Livemode == o.Livemode:
		return 0
	case k.Livemode:
		return 1
	default:
		return -1
	}
}

// The names that tags give to details are short since every row carries them: spelled out they would be a quarter of
// a row. One name means the same in each table.

// Fact is what one rendering of one event says, reduced to the allow-list. Text is empty and a number 0 where the event
// does not say. Strings are the provider's own words, made safe to store (no NUL, valid UTF-8, length-capped, card
// numbers masked) by the decoder.
type Fact struct {
	PaymentKey
	EventID    string    `db:"event_id"`
	APIVersion string    `db:"api_version"`
	EventType  string    `db:"event_type"`
	Created    int64     `db:"created"`     // of the event, Unix seconds
	ReceivedAt time.Time `db:"received_at"` // set when it is recorded

	Object         string `detail:"o"` // charge, payment_intent, invoice, checkout_session, transfer, payout, charge_intent
	ObjectID       string `detail:"oid"`
	Status         string `detail:"st"`
	PaymentIntent  string `detail:"pi"`
	Charge         string `detail:"ch"`  // a charge's own id, or last_payment_error.charge
	LatestCharge   string `detail:"lch"` // of an intent; may name an earlier attempt's charge
	Transfer       string `detail:"tr"`
	Customer       string `detail:"cus"`
	Invoice        string `detail:"in"` // the field, or an order reference in_…
	OrderReference string `detail:"ord"`
	Amount         int64  `detail:"amt"` // minor units
	Currency       string `detail:"cur"`

	FailureCode        string `detail:"fc"`
	ErrorCode          string `detail:"ec"`
	DeclineCode        string `detail:"dc"`
	OutcomeType        string `detail:"ot"`
	OutcomeReason      string `detail:"or"`
	NetworkStatus      string `detail:"ns"`
	RiskLevel          string `detail:"rl"`
	StripeReport       string `detail:"sr"`
	AdviceCode         string `detail:"ac"`
	NetworkAdviceCode  string `detail:"nac"`
	NetworkDeclineCode string `detail:"ndc"`
	ErrorType          string `detail:"et"`
	ErrorMessage       string `detail:"em"` // failure_message or last_payment_error.message: for the merchant only
	ErrorParam         string `detail:"ep"`
	ErrorDocURL        string `detail:"ed"`
	ErrorMethodType    string `detail:"emt"`
	ErrorLogURL        string `detail:"el"`

	MethodID      string `detail:"pm"`
	MethodType    string `detail:"mt"`
	MethodCreated int64  `detail:"mc"` // Unix seconds
	MethodSaved   string `detail:"ms"` // yes: attached to a customer; no; '' unknown
	Brand         string `detail:"br"`
	Network       string `detail:"nw"`
	Last4         string `detail:"l4"`
	ExpMonth      int64  `detail:"xm"`
	ExpYear       int64  `detail:"xy"`
	Country       string `detail:"co"`
	Funding       string `detail:"fu"`
	Fingerprint   string `detail:"fp"`
	Wallet        string `detail:"wa"`
	CVCCheck      string `detail:"cvc"` // of a charge's own payment_method_details; the copy inside an error is old
	PostalCheck   string `detail:"pc"`
	AddressCheck  string `detail:"adr"`

	RequestOrigin    string `detail:"rq"`  // api: request.id set; none: null; '' the envelope does not say
	Session          string `detail:"ss"`  // merchant's own metadata: on_session, off_session
	SetupFutureUsage string `detail:"sfu"` // of the intent or its method options
	ThreeDSecure     string `detail:"tds"` // result, or result:reason
	ThreeDSecureFlow string `detail:"tdf"` // challenge, frictionless
	Moto             bool   `detail:"mo"`
	BillingReason    string `detail:"bi"` // of an invoice
	Agreement        bool   `detail:"ag"` // Frame: billing_agreement is set

	ClientSecretHash []byte   `detail:"csh"`
	Contact          []byte   `db:"contact"` // Addresses, sealed when written
	Addresses        *Contact `db:"-"`       // plain, on the way in only
	Locale           string   `detail:"lo"`  // merchant's own metadata
	SessionLocale    string   `detail:"slo"` // of a Checkout Session: its page's language
}

// Contact is where a person can be reached. It is kept encrypted and never logged.
type Contact struct {
	Metadata string `json:"m,omitempty"` // address in the merchant's own metadata key
	Receipt  string `json:"r,omitempty"` // receipt_email
	Customer string `json:"c,omitempty"` // the customer's own address, or an invoice's or session's copy of it
	Billing  string `json:"b,omitempty"` // billing_details.email
}

// Payment is the state of one payment, derived from its facts.
type Payment struct {
	PaymentKey
	Status           string     `db:"status"` // failing, pending, recovered, canceled
	PaymentIntent    string     `db:"payment_intent"`
	Customer         string     `db:"customer"`
	Invoice          string     `db:"invoice"`
	OrderReference   string     `db:"order_reference"`
	Amount           int64      `db:"amount"`
	Currency         string     `db:"currency"`
	ClientSecretHash []byte     `db:"client_secret_hash"`
	FailedReceivedAt *time.Time `db:"failed_received_at"` // commit of the first failure event: the hold runs from here
	FailedCreated    int64      `db:"failed_created"`     // created of the earliest failure
	SucceededCreated int64      `db:"succeeded_created"`
	CreatedAt        time.Time  `db:"created_at"`
}

// Invoice is the state of one invoice, derived from its facts. Its PaymentID is the invoice id.
type Invoice struct {
	PaymentKey
	Status         string `db:"status"` // open, paid, void, uncollectible, or ''
	BillingReason  string `db:"billing_reason"`
	SettledCreated int64  `db:"settled_created"` // created of the event that paid or ended it
}

// Attempt is one try at a payment, failed or succeeded, derived from the facts.
type Attempt struct {
	ID string `db:"id"` // fl_…
	PaymentKey
	AttemptKey    string    `db:"-"`              // charge id, or what stands for it
	Result        string    `db:"result"`         // failed, succeeded
	PaymentStatus string    `db:"payment_status"` // as Payment.Status: all of a payment's rows are derived together
	OccurredAt    time.Time `db:"occurred_at"`    // earliest created of its events
	ReceivedAt    time.Time `db:"received_at"`    // first receipt

	PaymentIntent string `detail:"pi"`
	Charge        string `db:"charge"`
	Customer      string `db:"customer"`
	Invoice       string `detail:"in"`
	Amount        int64  `detail:"amt"`
	Currency      string `detail:"cur"`

	FailureCode        string `detail:"fc"`
	ErrorCode          string `detail:"ec"`
	DeclineCode        string `detail:"dc"`
	OutcomeType        string `detail:"ot"`
	OutcomeReason      string `detail:"or"`
	NetworkStatus      string `detail:"ns"`
	RiskLevel          string `detail:"rl"`
	AdviceCode         string `detail:"ac"`
	NetworkAdviceCode  string `detail:"nac"`
	NetworkDeclineCode string `db:"network_decline_code"`
	ErrorType          string `detail:"et"`
	ErrorMessage       string `detail:"em"`
	ErrorParam         string `detail:"ep"`
	ErrorDocURL        string `detail:"ed"`
	ErrorMethodType    string `detail:"emt"`
	ErrorLogURL        string `detail:"el"`

	MethodID     string `db:"method_id"`
	MethodType   string `detail:"mt"`
	Brand        string `db:"brand"`
	Network      string `db:"network"`
	Last4        string `detail:"l4"`
	ExpMonth     int64  `detail:"xm"`
	ExpYear      int64  `detail:"xy"`
	Country      string `detail:"co"`
	Funding      string `detail:"fu"`
	Fingerprint  string `db:"fingerprint"`
	CVCCheck     string `detail:"cvc"`
	PostalCheck  string `detail:"pc"`
	AddressCheck string `detail:"adr"`

	Type             string `detail:"ty"`
	Code             string `detail:"c"`
	Category         string `db:"category"`
	Severity         string `detail:"sev"`
	Disclosable      bool   `detail:"di"`
	NextStep         string `detail:"nx"`
	MerchantNextStep string `detail:"mnx"`
	DecidedBy        string `detail:"by"`
	PublicCode       string `detail:"pub"`
	PublicNextStep   string `detail:"pnx"`
	PublicField      string `detail:"pfi"`
	PublicRetry      bool   `detail:"pre"`
	PaymentTries     int64  `detail:"pt"` // failed attempts of the payment, 2 for more: a further one is not to change the rows of all
	AwaitsCharge     bool   `detail:"aw"` // it has a charge whose event has not come yet

	Presence string   `detail:"ps"` // on_session, off_session, in_person, unknown
	Evidence []string `detail:"ev"` // rung=weight

	RetryVerdict   string     `detail:"rv"`
	AttemptsUsed   int64      `detail:"au"`
	AttemptsLeft   int64      `detail:"al"`
	RetryNotBefore *time.Time `detail:"rnb"`
	RetryLimitedBy string     `detail:"rlb"`

	Locale string   `detail:"lo"`
	Events []string `detail:"evs"`
}

// The states of a notification, as the API shows them. A held notification that a process has claimed stays held.
const (
	Held       = "held"
	Sent       = "sent"
	Delivered  = "delivered"
	Suppressed = "suppressed"
	Canceled   = "canceled"
	Failed     = "failed"
	Unknown    = "unknown"
)

// The channels of a notification.
const (
	ChannelCheckout = "checkout"
	ChannelEmail    = "email"
	ChannelInbox    = "inbox"
)

// Notification is one decision to tell, or not to tell, a customer.
type Notification struct {
	ID string `db:"id"` // nt_…
	PaymentKey
	FailureID string     `db:"failure_id"`
	Channel   string     `db:"channel"`
	Template  string     `db:"template"`
	Status    string     `db:"status"`
	Reason    string     `db:"reason"`
	DueAt     time.Time  `db:"due_at"`
	NextTryAt *time.Time `db:"next_try_at"` // not before this; DueAt stays as it was
	SentAt    *time.Time `db:"sent_at"`
	Owner     int64      `db:"owner"`
	Tries     int64      `db:"tries"`     // of which a mail server was asked, the present one too
	Undecided int64      `db:"undecided"` // of those, by which the mail may have arrived
	MessageID string     `db:"message_id"`
	Customer  string     `db:"customer"`
	Locale    string     `db:"locale"`
	ShownCode string     `db:"shown_code"`
	Mailbox   []byte     `db:"mailbox"`
	// NewMailbox: the mailbox was unknown before the hour in which it was written to.
	NewMailbox bool       `db:"new_mailbox"`
	ReadAt     *time.Time `db:"read_at"`
	CreatedAt  time.Time  `db:"created_at"`
	UpdatedAt  time.Time  `db:"updated_at"`
}

// Customer is what a provider says of a customer, by event or by API.
type Customer struct {
	CustomerID    string
	Source        string
	Account       string
	Livemode      bool
	Created       int64  // of the customer itself; 0 unknown
	RecordCreated int64  // of the event, or the time of the read; Unix seconds
	RecordEvent   string // event id, or "api"
	Deleted       bool
	Email         string // plain, on the way in and out only
	Locale        string // preferred_locales, separated by commas, the best first
}

// Quarantined is a signed event that could not be used as it is.
type Quarantined struct {
	Source    string
	EventID   string
	EventType string
	Reason    string
	Body      []byte // plain, sealed when written
}
