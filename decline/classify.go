package decline

import (
	"cmp"
	"strings"
	"time"
)

// Rules are the settings that a verdict depends on besides the facts. The zero value is the default.
type Rules struct {
	// MaxRetriesPerCharge is the number of retries that advice may grant on one payment, 1 to 8; 0 means 4.
	MaxRetriesPerCharge int
	// Overrides are the merchant's own verdicts on single codes, see LoadOverrides. The zero value has none.
	Overrides Overrides
}

// fact names where a code stood. The order is the fixed rank between facts whose codes are equally telling, whatever
// order the events came in: what the payment intent says of the decline, then what the charge says, then the codes
// that are often mere envelopes.
type fact int

const (
	byDeclineCode fact = iota
	byOutcomeReason
	byFrameFailureCode
	byErrorCode
	byFailureCode
	byOutcomeType
	byFrameStatus
	byStripeReport
	byNetworkStatus
	byRiskLevel
	byNetworkAdvice
	byNetworkDecline
	byErrorType
	byNothing
)

var decidedBy = [...]string{
	byDeclineCode:      "decline_code:stripe",
	byOutcomeReason:    "outcome_reason:stripe",
	byFrameFailureCode: "failure_code:frame",
	byErrorCode:        "error_code:stripe",
	byFailureCode:      "failure_code:stripe",
	byOutcomeType:      "outcome_type:stripe",
	byFrameStatus:      "status:frame",
	byStripeReport:     "stripe_report:stripe",
	byNetworkStatus:    "network_status:stripe",
	byRiskLevel:        "risk_level:stripe",
	byErrorType:        "error_type:stripe",
	byNothing:          "unknown:rebound",
}

// genericPublic is the one public view of every verdict whose code a customer may not learn, and of generic_decline
// itself. It is made once, so that no two of them can differ.
var genericPublic = Public{Code: GenericDecline, NextStep: ContactIssuer}

// Generic is the public view that tells nothing: of every verdict whose code a customer may not learn, and of an attempt of
// which that is not known yet.
func Generic() Public { return genericPublic }

// ChargeWindow is how long an attempt of which only the intent is known, though it has a charge, is told by Generic: the charge's
// event may bring a fraud signal, and what had been told specifically would then betray it.
const ChargeWindow = 5 * time.Second

// unknownRow stands for a code that no table has: refused for a reason nobody knows, so at most one later retry, and
// nothing is disclosed since it may be a fraud signal that is newer than the catalog.
var unknownRow = &row{
	names: "unknown", typ: UnknownType, category: IssuerUnknown, severity: Soft, disclose: withhold,
	next: ContactIssuer, retry: RetryLater, max: 1, rule: "rebound:one_retry_unknown_reason",
	merchant:        "Read the provider's own codes and message; Rebound does not know this reason.",
	merchantPending: "Read the provider's own codes and message; Rebound does not know this reason; expect the customer to see the amount as pending for some days.",
}

// reading is what one pass over the facts collects.
type reading struct {
	overrides map[string]override

	best     *row // most telling row, block and fraud signals included
	bestFact fact
	code     *row // most telling row that is a code
	strange  string
	mute     bool // the customer must not be written to
	silent   bool // a fraud signal, a block, or something unclassified: nothing may be disclosed

	dataError bool // the class is one that new data can mend
	retry     RetryVerdict
	limited   string
	wait      time.Duration
	max       int
	maxRule   string
}

// Classify says what a failed attempt means. It is pure and total: any facts, unknown codes included, get a verdict.
//
// Class: a block, an invalid request or a fraud signal in any of the facts comes first. Otherwise the most telling
// code decides (a specific one, then generic_decline and its like, then an envelope such as card_declined); among
// equals decline_code, outcome.reason, Frame's failure_code, the error code and Stripe's failure_code, in this order.
// A block's own reason outranks the decline code that goes with it. Discretion is a join: one fraud signal or block
// anywhere, or a code no table knows, and nothing is disclosed. Retry: the strictest of everything said.
func (r Rules) Classify(f Facts) Verdict {
	rd := reading{overrides: r.Overrides.byCode, bestFact: byNothing}
	network := networkName(f.Network)

	var netDecline, netAdvice *row
	if f.NetworkDeclineCode != "" {
		netDecline = known.networkDecline[key{network, f.NetworkDeclineCode}]
	}
	if f.NetworkAdviceCode != "" {
		netAdvice = known.networkAdvice[key{network, f.NetworkAdviceCode}]
	}
	blocked := f.OutcomeType == string(Blocked) || f.OutcomeType == string(Invalid)
	if blocked {
		rd.see(byOutcomeReason, f.OutcomeReason, reasonRow(&f))
	}
	rd.see(byDeclineCode, f.DeclineCode, declineRow(f.DeclineCode, f.MethodType))
	if !blocked {
		rd.see(byOutcomeReason, f.OutcomeReason, reasonRow(&f))
	}
	if f.Source == Frame {
		rd.see(byFrameFailureCode, f.FailureCode, withoutPrefix(known.frame, f.FailureCode))
		rd.see(byErrorCode, f.ErrorCode, withoutPrefix(known.frame, f.ErrorCode))
	} else {
		rd.see(byErrorCode, f.ErrorCode, withoutPrefix(known.errorCode, f.ErrorCode))
		rd.see(byFailureCode, f.FailureCode, withoutPrefix(known.errorCode, f.FailureCode))
	}
	rd.seeSignals(&f)
	rd.seeNetwork(netDecline, netAdvice)

	if rd.best == nil && rd.strange == "" {
		if r := known.errorType[f.ProviderType]; r != nil && r.rank > noRank {
			rd.best, rd.bestFact = r, byErrorType
		}
	}

	class := rd.best
	code := rd.code
	if class == nil {
		class = unknownRow
	}
	if rd.strange != "" && class.rank < generic {
		class, rd.bestFact = unknownRow, byNothing
	}
	if class == unknownRow && f.OutcomeType == string(IssuerDeclined) {
		rd.bestFact = byOutcomeType
	}
	if code == nil || code.rank < generic {
		code = class
	}
	rd.dataError = class.category == DataError
	rd.ask(class)
	rd.ask(known.advice[f.AdviceCode])
	rd.ask(netAdvice)
	rd.ask(netDecline)
	rd.seeMax(class)
	return rd.verdict(&f, class, code, r.maxRetries())
}

// see takes in a code that stood in one of the code facts. Every specific code takes part in the retry advice, so
// that the strictest wins when they disagree.
func (rd *reading) see(where fact, code string, r *row) {
	if code == "" {
		return
	}
	if r == nil {
		// A code nobody has classed yet may be a new fraud signal.
		rd.silent = true
		if rd.strange == "" {
			rd.strange = code
		}
		return
	}
	rd.mute = rd.mute || r.noContact
	rd.take(where, r)
	if rd.code == nil || r.rank > rd.code.rank {
		rd.code = r
	}
	if r.rank >= specific {
		rd.ask(r)
		rd.seeMax(r)
	}
}

// take lets a row decide the class when it is more telling than what was seen before it.
func (rd *reading) take(where fact, r *row) {
	if r.disclose == secret {
		rd.silent = true
	}
	if rd.best == nil || r.rank > rd.best.rank {
		rd.best, rd.bestFact = r, where
	}
}

// sign takes in a block or fraud signal that is not a code of its own: it outranks every code but a secret one.
func (rd *reading) sign(where fact, r *row) {
	if r == nil || r.disclose != secret {
		return
	}
	rd.silent = true
	decides := rd.best == nil || rd.best.rank < signal
	if decides {
		rd.best, rd.bestFact = r, where
	}
	// A block whose reason is known is as final as its reason says.
	if decides || where != byOutcomeType && where != byNetworkStatus {
		rd.ask(r)
	}
}

func (rd *reading) seeSignals(f *Facts) {
	if f.OutcomeType != "" {
		if r := known.outcomeType[f.OutcomeType]; r != nil {
			rd.sign(byOutcomeType, r)
		} else {
			rd.silent = true // a kind of outcome newer than the catalog may be a kind of block
		}
	}
	if strings.HasPrefix(f.Status, "fraud") {
		r := known.frameStatus[f.Status]
		if r == nil {
			r = known.frameStatus["fraud_declined"]
		}
		rd.sign(byFrameStatus, r)
	}
	if f.StripeReport != "" && f.StripeReport != "safe" {
		rd.sign(byStripeReport, known.outcomeType[string(Blocked)])
	}
	if f.NetworkStatus == "not_sent_to_network" && f.OutcomeType != string(IssuerDeclined) {
		rd.silent = true
	}
	rd.sign(byNetworkStatus, known.networkStatus[f.NetworkStatus])
	rd.sign(byRiskLevel, known.riskLevel[f.RiskLevel])
}

func (rd *reading) seeNetwork(decline, advice *row) {
	if advice != nil {
		rd.sign(byNetworkAdvice, advice)
	}
	if decline == nil {
		return
	}
	rd.sign(byNetworkDecline, decline)
	// With nothing but an envelope, the network's own code is the best there is.
	if rd.strange == "" && (rd.best == nil || rd.best.rank <= envelope) {
		rd.best, rd.bestFact, rd.code = decline, byNetworkDecline, decline
	}
}

func reasonRow(f *Facts) *row {
	r := withoutPrefix(known.reason, f.OutcomeReason)
	if r != nil && r.code == f.OutcomeReason && r.table != StripeOutcomeReasons && !cardLike(f.MethodType) {
		return declineRow(f.OutcomeReason, f.MethodType)
	}
	return r
}

// declineRow finds a decline code in the table of the payment method's kind: the same word has a row per kind.
func declineRow(code, method string) *row {
	switch {
	case cardLike(method):
		return withoutPrefix(known.card, code)
	case strings.HasSuffix(method, "_debit") || strings.HasSuffix(method, "_bank_account"):
		return withoutPrefix(known.errorCode, code)
	default:
		return withoutPrefix(known.local, code)
	}
}

func cardLike(method string) bool {
	switch method {
	case "", "card", "card_present", "interac_present", "link":
		return true
	}
	return false
}

// withoutPrefix finds a code, or else the plain code behind the partner_ form that outcome.reason uses.
func withoutPrefix(m map[string]*row, code string) *row {
	if code == "" {
		return nil
	}
	if r := m[code]; r != nil {
		return r
	}
	if plain, ok := strings.CutPrefix(code, "partner_"); ok {
		return known.local[plain]
	}
	return nil
}

// networkName brings the spellings of a network to one. Anything else is looked up as it is.
func networkName(s string) string {
	switch s {
	case "american_express", "american express", "American Express", "AMEX", "Amex":
		return "amex"
	case "master_card", "MasterCard", "Mastercard", "MASTERCARD":
		return "mastercard"
	case "Visa", "VISA":
		return "visa"
	case "Elo", "ELO":
		return "elo"
	}
	return s
}

// verdict puts together what was read.
func (rd *reading) verdict(f *Facts, class, code *row, most int) Verdict {
	o, overridden := rd.overrides[code.names]
	overridden = overridden && code == class // a block or signal keeps its own class
	v := Verdict{
		Type: typeOf(f, rd, class), Code: code.names, Category: class.category, Severity: class.severity,
		NextStep: class.next, MerchantNextStep: class.merchant, DecidedBy: cmp.Or(class.decidedBy, decidedBy[rd.bestFact]),
		Disclosable: class.disclose == disclose && !rd.silent, Opinions: code.opinions[0], Unrecognized: rd.strange, NoContact: rd.mute, Hidden: rd.silent,
	}
	if f.Source == Frame {
		v.Opinions = code.opinions[1]
	}
	if overridden && class.table != "" {
		v.DecidedBy = "override:merchant"
		if o.severity != "" {
			v.Severity = o.severity
		}
		if o.next != "" {
			v.NextStep = o.next
		}
		v.Disclosable = v.Disclosable && !o.hidden
	}
	v.Retry = rd.decideRetry(f, class, most)
	v.NextStep = stepUnder(v.NextStep, v.Retry)
	v.Public = genericPublic
	if v.Disclosable && class.rank > generic {
		v.Public = publicOf(class.names, v.NextStep, class.field, class.category, v.Retry.Verdict)
	}
	switch {
	case f.NetworkStatus == "reversed_after_approval":
		v.MerchantNextStep = class.merchantPending
	case class.rank > envelope && class.rank != generic || class.disclose == secret:
	case f.CVCCheck == "fail":
		v.MerchantNextStep = "The security code check failed: have the customer enter the card anew before another attempt."
	case f.PostalCheck == "fail" || f.AddressCheck == "fail":
		v.MerchantNextStep = "The postal code or address check failed: have the customer correct the billing address before another attempt."
	}
	return v
}

// typeOf says who declined: the charge's outcome knows it best. Its issuer_declined also covers payment providers.
func typeOf(f *Facts, rd *reading, class *row) Type {
	switch f.OutcomeType {
	case string(Blocked):
		return Blocked
	case string(Invalid):
		return Invalid
	case string(IssuerDeclined):
		if class.typ == ProviderDeclined || rd.code != nil && rd.code.typ == ProviderDeclined {
			return ProviderDeclined
		}
		return IssuerDeclined
	}
	if class.typ == "" {
		return UnknownType
	}
	return class.typ
}

// publicOf makes the customer's view of a code that may be disclosed; every other code has the generic one.
func publicOf(code string, next NextStep, field Field, c Category, retry RetryVerdict) Public {
	p := Public{Code: code, NextStep: next, Field: field}
	if retry == RetryNever {
		return p
	}
	switch next {
	case Authenticate, CorrectDetails, TryAgain, TryAgainLater, ResumeCheckout, RenewAuthorization:
		p.RetrySameMethod = true
	case UseAnotherMethod:
		p.RetrySameMethod = c == InsufficientFunds && retry == RetryLater
	}
	return p
}
