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

	Object         string `detail:"object"` // charge, payment_intent, invoice, invoice_payment, checkout_session, transfer, charge_intent
	ObjectID       string `detail:"object_id"`
	ObjectCreated  int64  `detail:"object_created"` // Unix seconds
	Status         string `detail:"status"`
	PaymentIntent  string `detail:"payment_intent"`
	Charge         string `detail:"charge"`        // a charge's own id, or last_payment_error.charge
	LatestCharge   string `detail:"latest_charge"` // of an intent; may name an earlier attempt's charge
	Transfer       string `detail:"transfer"`
	Customer       string `detail:"customer"`
	Invoice        string `detail:"invoice"` // the field, or an order reference in_…
	OrderReference string `detail:"order_reference"`
	Amount         int64  `detail:"amount"` // minor units
	Currency       string `detail:"currency"`

	FailureCode        string `detail:"failure_code"`
	ErrorCode          string `detail:"error_code"`
	DeclineCode        string `detail:"decline_code"`
	OutcomeType        string `detail:"outcome_type"`
	OutcomeReason      string `detail:"outcome_reason"`
	NetworkStatus      string `detail:"network_status"`
	RiskLevel          string `detail:"risk_level"`
	StripeReport       string `detail:"stripe_report"`
	AdviceCode         string `detail:"advice_code"`
	NetworkAdviceCode  string `detail:"network_advice_code"`
	NetworkDeclineCode string `detail:"network_decline_code"`
	ErrorType          string `detail:"error_type"`
	ErrorMessage       string `detail:"error_message"` // failure_message or last_payment_error.message: for the merchant only
	ErrorParam         string `detail:"error_param"`
	ErrorDocURL        string `detail:"error_doc_url"`
	ErrorMethodType    string `detail:"error_method_type"`
	ErrorLogURL        string `detail:"error_log_url"`

	MethodID      string `detail:"method_id"`
	MethodType    string `detail:"method_type"`
	MethodCreated int64  `detail:"method_created"` // Unix seconds
	MethodSaved   string `detail:"method_saved"`   // yes: attached to a customer; no; '' unknown
	Brand         string `detail:"brand"`
	Network       string `detail:"network"`
	Last4         string `detail:"last4"`
	ExpMonth      int64  `detail:"exp_month"`
	ExpYear       int64  `detail:"exp_year"`
	Country       string `detail:"country"`
	Funding       string `detail:"funding"`
	Fingerprint   string `detail:"fingerprint"`
	Wallet        string `detail:"wallet"`
	CVCCheck      string `detail:"cvc_check"` // of a charge's own payment_method_details; the copy inside an error is old
	PostalCheck   string `detail:"postal_check"`
	AddressCheck  string `detail:"address_check"`

	RequestOrigin    string `detail:"request_origin"`      // api: request.id set; none: null; '' the envelope does not say
	Session          string `detail:"session"`             // merchant's own metadata: on_session, off_session
	SetupFutureUsage string `detail:"setup_future_usage"`  // of the intent or its method options
	ThreeDSecure     string `detail:"three_d_secure"`      // result, or result:reason
	ThreeDSecureFlow string `detail:"three_d_secure_flow"` // challenge, frictionless
	Moto             bool   `detail:"moto"`
	BillingReason    string `detail:"billing_reason"` // of an invoice
	Agreement        bool   `detail:"agreement"`      // Frame: billing_agreement is set

	ClientSecretHash []byte   `detail:"client_secret_hash"`
	Contact          []byte   `db:"contact"`    // Addresses, sealed when written
	Addresses        *Contact `db:"-"`          // plain, on the way in only
	Locale           string   `detail:"locale"` // merchant's own metadata
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
	Status         string `db:"status"` // open, paid, void, uncollectible, or ''
	BillingReason  string `db:"billing_reason"`
	SettledCreated int64  `db:"settled_created"` // created of the event that paid or ended it
}

// Attempt is one try at a payment, failed or succeeded, derived from the facts.
type Attempt struct {
	ID string `db:"id"` // fl_…
	PaymentKey
	AttemptKey    string    `detail:"attempt_key"` // charge id, or what stands for it
	Result        string    `db:"result"`          // failed, succeeded
	PaymentStatus string    `db:"payment_status"`  // as Payment.Status: all of a payment's rows are derived together
	OccurredAt    time.Time `db:"occurred_at"`     // earliest created of its events
	ReceivedAt    time.Time `db:"received_at"`     // first receipt

	PaymentIntent string `detail:"payment_intent"`
	Charge        string `db:"charge"`
	Customer      string `db:"customer"`
	Invoice       string `detail:"invoice"`
	Amount        int64  `detail:"amount"`
	Currency      string `detail:"currency"`

	FailureCode        string `detail:"failure_code"`
	ErrorCode          string `detail:"error_code"`
	DeclineCode        string `detail:"decline_code"`
	OutcomeType        string `detail:"outcome_type"`
	OutcomeReason      string `detail:"outcome_reason"`
	NetworkStatus      string `detail:"network_status"`
	RiskLevel          string `detail:"risk_level"`
	AdviceCode         string `detail:"advice_code"`
	NetworkAdviceCode  string `detail:"network_advice_code"`
	NetworkDeclineCode string `db:"network_decline_code"`
	ErrorType          string `detail:"error_type"`
	ErrorMessage       string `detail:"error_message"`
	ErrorParam         string `detail:"error_param"`
	ErrorDocURL        string `detail:"error_doc_url"`
	ErrorMethodType    string `detail:"error_method_type"`
	ErrorLogURL        string `detail:"error_log_url"`

	MethodID     string `db:"method_id"`
	MethodType   string `detail:"method_type"`
	Brand        string `db:"brand"`
	Network      string `db:"network"`
	Last4        string `detail:"last4"`
	ExpMonth     int64  `detail:"exp_month"`
	ExpYear      int64  `detail:"exp_year"`
	Country      string `detail:"country"`
	Funding      string `detail:"funding"`
	Fingerprint  string `db:"fingerprint"`
	CVCCheck     string `detail:"cvc_check"`
	PostalCheck  string `detail:"postal_check"`
	AddressCheck string `detail:"address_check"`

	Type             string `detail:"type"`
	Code             string `detail:"code"`
	Category         string `db:"category"`
	Severity         string `detail:"severity"`
	Disclosable      bool   `detail:"disclosable"`
	NextStep         string `detail:"next_step"`
	MerchantNextStep string `detail:"merchant_next_step"`
	DecidedBy        string `detail:"decided_by"`
	PublicCode       string `detail:"public_code"`
	PublicNextStep   string `detail:"public_next_step"`
	PublicField      string `detail:"public_field"`
	PublicRetry      bool   `detail:"public_retry"`
	AwaitsCharge     bool   `detail:"awaits_charge"` // it has a charge whose event has not come yet

	Presence string   `detail:"presence"` // on_session, off_session, in_person, unknown
	Evidence []string `detail:"evidence"` // rung=weight

	RetryVerdict   string     `detail:"retry_verdict"`
	AttemptsUsed   int64      `detail:"attempts_used"`
	AttemptsLeft   int64      `detail:"attempts_left"`
	RetryNotBefore *time.Time `detail:"retry_not_before"`
	RetryLimitedBy string     `detail:"retry_limited_by"`

	Locale string   `detail:"locale"`
	Events []string `detail:"events"`
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
