package decline

import "strings"

const (
	defaultMaxRetries = 4 // Stripe, "Understanding declines": not more than four times
	mostMaxRetries    = 8 // Stripe, "Card declines", 2026-10-05
)

// strictness orders retry verdicts: never, after_customer_action, retry_later, retry_now. It is -1 for another word.
func strictness(v RetryVerdict) int {
	switch v {
	case RetryNow:
		return 0
	case RetryLater:
		return 1
	case AfterCustomerAction:
		return 2
	case RetryNever:
		return 3
	}
	return -1
}

// ask takes in what a row says of a retry. The strictest wins; among equals a network's rule is the one named, else
// the first. A network's never is about the data as they were sent, so after a data error new data may still be tried.
func (rd *reading) ask(r *row) {
	if r == nil || r.retry == "" {
		return
	}
	v, rule := r.retry, r.rule
	network := r.table == NetworkDeclineCodes || r.table == NetworkAdviceCodes
	if o, ok := rd.overrides[r.names]; ok && o.retry != "" && !network && r.table != StripeAdviceCodes {
		v, rule = o.retry, "override:merchant"
	}
	if network && rd.dataError && v == RetryNever {
		v = AfterCustomerAction
	}
	if r.wait > rd.wait && strictness(v) <= 1 {
		rd.wait = r.wait
		if strictness(rd.retry) <= 1 {
			rd.limited = rule
		}
	}
	switch s := strictness(v); {
	case s > strictness(rd.retry):
		rd.retry = v
		if s > 1 {
			rd.limited = rule
		}
	case s == strictness(rd.retry) && s > 1 && rule != "" && (rd.limited == "" || network):
		rd.limited = rule
	}
}

// seeMax takes in how many retries a code itself allows, e.g. one after do_not_honor.
func (rd *reading) seeMax(r *row) {
	if r.max > 0 && (rd.max == 0 || r.max < rd.max) {
		rd.max, rd.maxRule = r.max, r.rule
	}
}

// decideRetry applies the counts to the strictest verdict.
func (rd *reading) decideRetry(f *Facts, class *row, most int) Retry {
	used := max(f.AttemptsUsed, 0)
	out := Retry{Verdict: rd.retry, AttemptsUsed: used, AttemptsLeft: max(most-used, 0), LimitedBy: rd.limited}
	if out.Verdict == "" {
		out.Verdict = RetryLater
	}
	end := func(rule string) {
		if out.Verdict == RetryNever {
			return
		}
		if strictness(out.Verdict) < strictness(AfterCustomerAction) || out.LimitedBy == "" {
			out.LimitedBy = rule
		}
		if out.Verdict = AfterCustomerAction; !class.otherMethodHelps() {
			out.Verdict, out.LimitedBy = RetryNever, rule
		}
	}
	if rd.max > 0 && used > rd.max && strictness(out.Verdict) <= 1 {
		end(rd.maxRule)
	}
	if out.AttemptsLeft == 0 {
		end("stripe:max_retries_per_charge")
	}
	if strictness(out.Verdict) <= 1 && rd.wait > 0 {
		out.Wait = rd.wait
		if !f.FailedAt.IsZero() {
			out.NotBefore = f.FailedAt.Add(out.Wait)
		}
	}
	return out
}

func (r Rules) maxRetries() int {
	if r.MaxRetriesPerCharge <= 0 {
		return defaultMaxRetries
	}
	return min(r.MaxRetriesPerCharge, mostMaxRetries)
}

// otherMethodHelps tells whether the customer can pay in another way: not when the fault is the merchant's request or
// when the first payment may have gone through.
func (r *row) otherMethodHelps() bool {
	return r.category != IntegrationError && r.next != NoCustomerAction && r.next != CheckExistingPayment
}

// stepUnder keeps a next step from asking for what the retry advice forbids.
func stepUnder(next NextStep, r Retry) NextStep {
	switch next {
	case TryAgain, TryAgainLater:
		if r.Verdict == RetryNever || r.Verdict == AfterCustomerAction {
			return UseAnotherMethod
		}
	case Authenticate, CorrectDetails:
		if r.Verdict == RetryNever {
			return UseAnotherMethod
		}
	}
	return next
}

// merchantAdvice is what staff can do about a row that does not say it itself.
func merchantAdvice(r *row) string {
	switch {
	case r.category == "":
		return ""
	case r.typ == Blocked:
		return "Review the payment in the Dashboard; if the customer is genuine, the allow list lifts future blocks but does not retry this payment."
	case r.category == FraudRisk || r.disclose == secret:
		return "Do not retry and do not tell the customer why; review the order before you accept another payment method."
	case r.category == InsufficientFunds:
		return "Wait before a retry, and offer another payment method."
	case r.category == TestMode:
		return "Match the key's mode to the card: test cards only pay in test mode."
	}
	switch r.next {
	case Authenticate:
		return "Bring the customer on session to authenticate; repeating the charge without the customer fails the same way."
	case CorrectDetails:
		return "Ask the customer to enter the details again; a repeat with the same details fails."
	case ContactIssuer:
		return "Ask the customer to speak with the bank or to use another payment method."
	case TryAgain, TryAgainLater:
		return "Wait and retry a few times at most; if it persists, ask the customer for another payment method."
	case RenewAuthorization:
		return "Do not charge again until the customer has given a new authorization."
	case ResumeCheckout:
		return "Invite the customer to start the payment again."
	}
	if strings.HasPrefix(string(r.retry), "retry") {
		return "Retry later a few times at most, and offer another payment method."
	}
	return "Ask the customer for another payment method."
}
