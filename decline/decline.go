// Package decline is the vocabulary of failed payments and the catalog of what each code means: which verdict a
// failed attempt gets, who must do what about it, and what the customer may be told. It is data and pure functions;
// it imports the standard library alone.
package decline

import "time"

// Source names the payment provider whose event reported an attempt.
type Source string

// The providers whose webhooks Rebound takes.
const (
	Stripe Source = "stripe"
	Frame  Source = "frame"
)

// Facts is everything known of one failed attempt that bears on its verdict, merged from all of its events. Every
// field is the provider's own value, verbatim; empty means unknown or absent.
type Facts struct {
	Source Source

	// FailureCode is a Stripe charge's failure_code (an error code, often only the envelope card_declined), or a
	// Frame charge's failure_code (the specific decline code).
	FailureCode string
	// ErrorCode and DeclineCode are last_payment_error.code and .decline_code of a Stripe payment intent.
	ErrorCode   string
	DeclineCode string

	OutcomeType   string // charge.outcome.type: issuer_declined, blocked, invalid, authorized, ...
	OutcomeReason string // charge.outcome.reason: the decline code of a charge, or a partner_ or Radar reason
	NetworkStatus string // charge.outcome.network_status
	RiskLevel     string // charge.outcome.risk_level
	StripeReport  string // charge.fraud_details.stripe_report: "fraudulent" on Radar blocks

	AdviceCode         string // try_again_later, do_not_try_again, confirm_card_data
	NetworkAdviceCode  string // Mastercard's merchant advice code and its like, per Network
	NetworkDeclineCode string // the issuer's raw code, per Network
	Network            string // card network, else card brand, lower case: visa, mastercard, amex, ...

	MethodType   string // payment method type: card, sepa_debit, ideal, ...
	ProviderType string // last_payment_error.type: card_error, api_error, invalid_request_error, ...
	Status       string // Frame transfer or intent status: fraud_declined and fraud_review are fraud signals

	CVCCheck, PostalCheck, AddressCheck string // pass, fail, unavailable, unchecked

	// AttemptsUsed counts the failed attempts on this payment so far, this one included, whoever made them.
	AttemptsUsed int
	// FailedAt is when this attempt failed: the earliest created of its failure events.
	FailedAt time.Time
}

// Verdict is what a failed attempt means. The zero Verdict is not meaningful; Classify makes them.
type Verdict struct {
	Type     Type
	Code     string // the most specific code known, e.g. insufficient_funds or highest_risk_level; "unknown" if none
	Category Category
	Severity Severity
	// Disclosable tells whether the customer may learn Code. When false every customer-facing member equals that of
	// generic_decline, byte for byte.
	Disclosable bool
	// Hidden tells that a fraud signal, a block, or something that the catalog does not know stands among the facts. It
	// is final: whatever else is or becomes known of the attempt, nothing of it may be disclosed.
	Hidden bool
	// Public is all that a customer may observe of this verdict. It is computed here, once, and nothing
	// customer-facing may be derived from any other field.
	Public Public
	// NextStep is what the customer should do, as the merchant sees it.
	NextStep NextStep
	// MerchantNextStep is what the merchant's staff can do: one English sentence.
	MerchantNextStep string
	// DecidedBy names the fact and the table that decided, e.g. "outcome_type:stripe" or "decline_code:stripe".
	DecidedBy string
	// Retry is the advice for the merchant about another attempt on the same payment method.
	Retry Retry
	// Opinions are what the other sources say of this code, for staff. The slice is shared: do not write to it.
	Opinions []Opinion
	// NoContact forbids writing to the customer automatically, in any channel: the bank reports that the account holder
	// may have died. It is not a fraud signal.
	NoContact bool
	// Unrecognized is the first code among the facts that no table of the catalog has, verbatim; empty when all are
	// known. Count it: it means that the catalog is behind.
	Unrecognized string
}

// Public is the customer's view of a verdict. Two failures with equal Public are indistinguishable to a customer.
type Public struct {
	Code     string   // customer-safe code; generic_decline for anything not disclosable
	NextStep NextStep // what the customer is asked to do
	Field    Field    // the form field to correct; empty for none
	// RetrySameMethod tells whether trying again with the same payment method can work from the customer's side.
	RetrySameMethod bool
}

// Opinion is what one source, other than the one that decided, says of a code.
type Opinion struct {
	Source  string // e.g. "hyperswitch", "frame"
	Verdict string // that source's own word, e.g. "retryable", "hard"
}

// Retry is advice on another attempt. It bounds what is allowed; it never asks for one.
type Retry struct {
	Verdict      RetryVerdict
	AttemptsUsed int
	AttemptsLeft int
	NotBefore    time.Time     // zero: no waiting time
	Wait         time.Duration // what NotBefore adds to FailedAt; known also when FailedAt is not
	LimitedBy    string        // the rule that set the verdict, e.g. "visa:category_1"; empty: none
}

// Type says who declined.
type Type string

// The types, as the API shows them.
const (
	IssuerDeclined       Type = "issuer_declined"
	Blocked              Type = "blocked"
	Invalid              Type = "invalid"
	AuthenticationFailed Type = "authentication_failed"
	ProviderDeclined     Type = "provider_declined"
	UnknownType          Type = "unknown"
)

// Category groups codes by the response they need.
type Category string

// The eight categories of Frame's decline document, and five for what those do not cover.
const (
	AuthenticationRequired Category = "authentication_required"
	InsufficientFunds      Category = "insufficient_funds"
	DataError              Category = "data_error"
	CardState              Category = "card_state"
	FraudRisk              Category = "fraud_risk"
	IssuerUnknown          Category = "issuer_unknown"
	ProcessingError        Category = "processing_error"
	TestMode               Category = "test_mode"
	Mandate                Category = "mandate"
	BankAccount            Category = "bank_account"
	CustomerAbandoned      Category = "customer_abandoned"
	Limit                  Category = "limit"
	IntegrationError       Category = "integration_error"
)

// Severity is soft when another attempt may work, hard when this payment method will not.
type Severity string

// The two severities.
const (
	Soft Severity = "soft"
	Hard Severity = "hard"
)

// NextStep is what the customer should do.
type NextStep string

// The next steps. Each has a customer text of its own, see Message.
const (
	Authenticate         NextStep = "authenticate"               // complete 3-D Secure or the bank's own check
	CorrectDetails       NextStep = "correct_details"            // re-enter the field named by Public.Field
	UseAnotherMethod     NextStep = "use_another_payment_method" // this method will not work
	ContactIssuer        NextStep = "contact_issuer"             // ask the bank, or use another method
	TryAgain             NextStep = "try_again"                  // a passing fault: the same again
	TryAgainLater        NextStep = "try_again_later"            // the same again after a wait
	RenewAuthorization   NextStep = "renew_authorization"        // a new mandate or billing agreement
	CheckExistingPayment NextStep = "check_existing_payment"     // a duplicate: look for the first payment
	ResumeCheckout       NextStep = "resume_checkout"            // the customer left or the session expired
	NoCustomerAction     NextStep = "none"                       // nothing the customer can do; staff must act
)

// Field is a form field that the customer can correct.
type Field string

// The fields, as the checkout page gets them.
const (
	NoField         Field = ""
	FieldNumber     Field = "number"
	FieldCVC        Field = "cvc"
	FieldExpiry     Field = "expiry"
	FieldPostalCode Field = "postal_code"
	FieldName       Field = "name"
	FieldAmount     Field = "amount"
)

// RetryVerdict orders advice from lenient to strict: retry_now, retry_later, after_customer_action, never.
type RetryVerdict string

// The retry verdicts.
const (
	RetryNow            RetryVerdict = "retry_now"
	RetryLater          RetryVerdict = "retry_later"
	AfterCustomerAction RetryVerdict = "after_customer_action"
	RetryNever          RetryVerdict = "never"
)

// GenericDecline is the customer-safe code that stands for every code that is not disclosable.
const GenericDecline = "generic_decline"
