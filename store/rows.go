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

// Fact is what one rendering of one event says, reduced to the allow-list. Text is ” and a number 0 where the event
// does not say. Strings are the provider's own words, made safe to store (no NUL, valid UTF-8, length-capped, card
// numbers masked) by the decoder.
type Fact struct {
	PaymentKey
	EventID    string    `db:"event_id"`
	APIVersion string    `db:"api_version"`
	EventType  string    `db:"event_type"`
	Created    int64     `db:"created"`     // of the event, Unix seconds
	ReceivedAt time.Time `db:"received_at"` // set when it is recorded

	Object         string `db:"object"` // charge, payment_intent, invoice, invoice_payment, checkout_session, transfer, charge_intent
	ObjectID       string `db:"object_id"`
	ObjectCreated  int64  `db:"object_created"` // Unix seconds
	Status         string `db:"status"`
	PaymentIntent  string `db:"payment_intent"`
	Charge         string `db:"charge"`        // a charge's own id, or last_payment_error.charge
	LatestCharge   string `db:"latest_charge"` // of an intent; may name an earlier attempt's charge
	Transfer       string `db:"transfer"`
	Customer       string `db:"customer"`
	Invoice        string `db:"invoice"` // the field, or an order reference in_…
	OrderReference string `db:"order_reference"`
	Amount         int64  `db:"amount"` // minor units
	Currency       string `db:"currency"`

	FailureCode        string `db:"failure_code"`
	ErrorCode          string `db:"error_code"`
	DeclineCode        string `db:"decline_code"`
	OutcomeType        string `db:"outcome_type"`
	OutcomeReason      string `db:"outcome_reason"`
	NetworkStatus      string `db:"network_status"`
	RiskLevel          string `db:"risk_level"`
	StripeReport       string `db:"stripe_report"`
	AdviceCode         string `db:"advice_code"`
	NetworkAdviceCode  string `db:"network_advice_code"`
	NetworkDeclineCode string `db:"network_decline_code"`
	ErrorType          string `db:"error_type"`
	ErrorMessage       string `db:"error_message"` // failure_message or last_payment_error.message: for the merchant only
	ErrorParam         string `db:"error_param"`
	ErrorDocURL        string `db:"error_doc_url"`
	ErrorMethodType    string `db:"error_method_type"`
	ErrorLogURL        string `db:"error_log_url"`

	MethodID      string `db:"method_id"`
	MethodType    string `db:"method_type"`
	MethodCreated int64  `db:"method_created"` // Unix seconds
	MethodSaved   string `db:"method_saved"`   // yes: attached to a customer; no; '' unknown
	Brand         string `db:"brand"`
	Network       string `db:"network"`
	Last4         string `db:"last4"`
	ExpMonth      int64  `db:"exp_month"`
	ExpYear       int64  `db:"exp_year"`
	Country       string `db:"country"`
	Funding       string `db:"funding"`
	Fingerprint   string `db:"fingerprint"`
	Wallet        string `db:"wallet"`
	CVCCheck      string `db:"cvc_check"` // of a charge's own payment_method_details; the copy inside an error is old
	PostalCheck   string `db:"postal_check"`
	AddressCheck  string `db:"address_check"`

	RequestOrigin    string `db:"request_origin"`      // api: request.id set; none: null; '' the envelope does not say
	Session          string `db:"session"`             // merchant's own metadata: on_session, off_session
	SetupFutureUsage string `db:"setup_future_usage"`  // of the intent or its method options
	ThreeDSecure     string `db:"three_d_secure"`      // result, or result:reason
	ThreeDSecureFlow string `db:"three_d_secure_flow"` // challenge, frictionless
	Moto             bool   `db:"moto"`
	BillingReason    string `db:"billing_reason"` // of an invoice
	Agreement        bool   `db:"agreement"`      // Frame: billing_agreement is set

	ClientSecretHash []byte   `db:"client_secret_hash"`
	Contact          []byte   `db:"contact"` // Addresses, sealed when written
	Addresses        *Contact `db:"-"`       // plain, on the way in only
	Locale           string   `db:"locale"`  // merchant's own metadata
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
	UpdatedAt        time.Time  `db:"updated_at"`
}

// Invoice is the state of one invoice, derived from its facts. Its PaymentID is the invoice id.
type Invoice struct {
	PaymentKey
	Status         string // open, paid, void, uncollectible, or ''
	BillingReason  string
	SettledCreated int64 // created of the event that paid or ended it
}

// Words is a list stored as one text, separated by spaces; its members hold no space.
type Words []string

// Attempt is one try at a payment, failed or succeeded, derived from the facts.
type Attempt struct {
	ID string `db:"id"` // fl_…
	PaymentKey
	AttemptKey string    `db:"attempt_key"` // charge id, or what stands for it
	Result     string    `db:"result"`      // failed, succeeded
	OccurredAt time.Time `db:"occurred_at"` // earliest created of its events
	ReceivedAt time.Time `db:"received_at"` // first receipt

	PaymentIntent string `db:"payment_intent"`
	Charge        string `db:"charge"`
	Customer      string `db:"customer"`
	Invoice       string `db:"invoice"`
	Amount        int64  `db:"amount"`
	Currency      string `db:"currency"`

	FailureCode        string `db:"failure_code"`
	ErrorCode          string `db:"error_code"`
	DeclineCode        string `db:"decline_code"`
	OutcomeType        string `db:"outcome_type"`
	OutcomeReason      string `db:"outcome_reason"`
	NetworkStatus      string `db:"network_status"`
	RiskLevel          string `db:"risk_level"`
	AdviceCode         string `db:"advice_code"`
	NetworkAdviceCode  string `db:"network_advice_code"`
	NetworkDeclineCode string `db:"network_decline_code"`
	ErrorType          string `db:"error_type"`
	ErrorMessage       string `db:"error_message"`
	ErrorParam         string `db:"error_param"`
	ErrorDocURL        string `db:"error_doc_url"`
	ErrorMethodType    string `db:"error_method_type"`
	ErrorLogURL        string `db:"error_log_url"`

	MethodID     string `db:"method_id"`
	MethodType   string `db:"method_type"`
	Brand        string `db:"brand"`
	Network      string `db:"network"`
	Last4        string `db:"last4"`
	ExpMonth     int64  `db:"exp_month"`
	ExpYear      int64  `db:"exp_year"`
	Country      string `db:"country"`
	Funding      string `db:"funding"`
	Fingerprint  string `db:"fingerprint"`
	CVCCheck     string `db:"cvc_check"`
	PostalCheck  string `db:"postal_check"`
	AddressCheck string `db:"address_check"`

	Type             string `db:"type"`
	Code             string `db:"code"`
	Category         string `db:"category"`
	Severity         string `db:"severity"`
	Disclosable      bool   `db:"disclosable"`
	NextStep         string `db:"next_step"`
	MerchantNextStep string `db:"merchant_next_step"`
	DecidedBy        string `db:"decided_by"`
	PublicCode       string `db:"public_code"`
	PublicNextStep   string `db:"public_next_step"`
	PublicField      string `db:"public_field"`
	PublicRetry      bool   `db:"public_retry"`
	AwaitsCharge     bool   `db:"awaits_charge"` // it has a charge whose event has not come yet

	Presence string `db:"presence"` // on_session, off_session, in_person, unknown
	Evidence Words  `db:"evidence"` // rung=weight

	RetryVerdict   string     `db:"retry_verdict"`
	AttemptsUsed   int64      `db:"attempts_used"`
	AttemptsLeft   int64      `db:"attempts_left"`
	RetryNotBefore *time.Time `db:"retry_not_before"`
	RetryLimitedBy string     `db:"retry_limited_by"`

	Locale    string    `db:"locale"`
	Events    Words     `db:"events"`
	UpdatedAt time.Time `db:"updated_at"`
}

// The states of a notification, as contract.md §4 has them. A held notification that a process has claimed stays held.
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
	Tries     int64      `db:"tries"`
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
	RecordCreated int64  // of the event, or the time of the read; Unix seconds
	RecordEvent   string // event id, or "api"
	Deleted       bool
	Email         string // plain, on the way in and out only
	Locale        string // first of preferred_locales
}

// Quarantined is a signed event that could not be used as it is.
type Quarantined struct {
	Source    string
	EventID   string
	EventType string
	Reason    string
	Body      []byte // plain, sealed when written
}
