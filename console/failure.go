package console

import (
	"cmp"
	"strings"
	"time"

	"rebound/decline"
	"rebound/store"
)

// list is a page of a list, newest first, as Stripe shapes it.
type list[T any] struct {
	Object  string `json:"object"`
	Data    []T    `json:"data"`
	HasMore bool   `json:"has_more"`
}

func listOf[T any](data []T, more bool) list[T] {
	return list[T]{Object: "list", Data: data, HasMore: more}
}

// failureJSON is one failed attempt, for the merchant. Members that a provider did not tell are null.
type failureJSON struct {
	ID            string             `json:"id"`
	Object        string             `json:"object"`
	Source        string             `json:"source"`
	Account       *string            `json:"account"`
	Livemode      bool               `json:"livemode"`
	PaymentID     string             `json:"payment_id"`
	PaymentIntent *string            `json:"payment_intent"`
	Charge        *string            `json:"charge"`
	Customer      *string            `json:"customer"`
	Invoice       *string            `json:"invoice"`
	Amount        int64              `json:"amount"`
	Currency      *string            `json:"currency"`
	FailedAt      time.Time          `json:"failed_at"`
	PaymentMethod methodJSON         `json:"payment_method"`
	Decline       declineJSON        `json:"decline"`
	Message       messageJSON        `json:"customer_message"`
	Presence      presenceJSON       `json:"presence"`
	Retry         retryJSON          `json:"retry"`
	PaymentStatus string             `json:"payment_status"`
	Notifications []notificationJSON `json:"notifications"`
	Events        []string           `json:"events"`
}

type methodJSON struct {
	ID          *string    `json:"id"`
	Type        *string    `json:"type"`
	Brand       *string    `json:"brand"`
	Network     *string    `json:"network"`
	Last4       *string    `json:"last4"`
	ExpMonth    *int64     `json:"exp_month"`
	ExpYear     *int64     `json:"exp_year"`
	Country     *string    `json:"country"`
	Funding     *string    `json:"funding"`
	Fingerprint *string    `json:"fingerprint"`
	Checks      checksJSON `json:"checks"`
}

type checksJSON struct {
	CVC        *string `json:"cvc"`
	PostalCode *string `json:"postal_code"`
	Address    *string `json:"address"`
}

type declineJSON struct {
	Type               string      `json:"type"`
	Code               string      `json:"code"`
	FailureCode        *string     `json:"failure_code"`
	DeclineCode        *string     `json:"decline_code"`
	Outcome            outcomeJSON `json:"outcome"`
	AdviceCode         *string     `json:"advice_code"`
	NetworkAdviceCode  *string     `json:"network_advice_code"`
	NetworkDeclineCode *string     `json:"network_decline_code"`
	Error              errorJSON   `json:"error"`
	Category           string      `json:"category"`
	Severity           string      `json:"severity"`
	Disclosable        bool        `json:"disclosable"`
	NextStep           string      `json:"next_step"`
	MerchantNextStep   string      `json:"merchant_next_step"`
	DecidedBy          string      `json:"decided_by"`
}

type outcomeJSON struct {
	Type          *string `json:"type"`
	Reason        *string `json:"reason"`
	NetworkStatus *string `json:"network_status"`
	RiskLevel     *string `json:"risk_level"`
}

type errorJSON struct {
	Type              *string `json:"type"`
	Message           *string `json:"message"`
	Param             *string `json:"param"`
	DocURL            *string `json:"doc_url"`
	PaymentMethodType *string `json:"payment_method_type"`
	RequestLogURL     *string `json:"request_log_url"`
}

type messageJSON struct {
	Code   string `json:"code"`
	Locale string `json:"locale"`
	Text   string `json:"text"`
}

type presenceJSON struct {
	Verdict  string         `json:"verdict"`
	Evidence []evidenceJSON `json:"evidence"`
}

type evidenceJSON struct {
	Rung   string `json:"rung"`
	Weight string `json:"weight"`
}

type retryJSON struct {
	Verdict      string     `json:"verdict"`
	AttemptsUsed int64      `json:"attempts_used"`
	AttemptsLeft int64      `json:"attempts_left"`
	NotBefore    *time.Time `json:"not_before"`
	LimitedBy    *string    `json:"limited_by"`
}

type notificationJSON struct {
	ID       string     `json:"id"`
	Channel  string     `json:"channel"`
	Template string     `json:"template"`
	Status   string     `json:"status"`
	Reason   *string    `json:"reason"`
	DueAt    time.Time  `json:"due_at"`
	SentAt   *time.Time `json:"sent_at"`
	Unseen   bool       `json:"-"` // sent to the checkout page, and none was open to show it
}

// failureOf shapes a failed attempt. locale is the language that the reader asks for, empty for the customer's own,
// or else their account's.
func (s *server) failureOf(f store.Failure, locale string) failureJSON {
	return failureJSON{
		ID: f.ID, Object: "failure", Source: f.Source, Account: text(f.Account), Livemode: f.Livemode,
		PaymentID: f.PaymentID, PaymentIntent: text(f.PaymentIntent), Charge: text(f.Charge), Customer: text(f.Customer),
		Invoice: text(f.Invoice), Amount: f.Amount, Currency: text(f.Currency), FailedAt: f.OccurredAt.UTC(),
		PaymentMethod: methodOf(f.Attempt),
		Decline: declineJSON{
			// A Stripe intent says it in code, a charge in failure_code: readers look in one place.
			Type: f.Type, Code: f.Code, FailureCode: text(cmp.Or(f.FailureCode, f.ErrorCode)), DeclineCode: text(f.DeclineCode),
			Outcome: outcomeJSON{
				Type: text(f.OutcomeType), Reason: text(f.OutcomeReason), NetworkStatus: text(f.NetworkStatus), RiskLevel: text(f.RiskLevel),
			},
			AdviceCode: text(f.AdviceCode), NetworkAdviceCode: text(f.NetworkAdviceCode), NetworkDeclineCode: text(f.NetworkDeclineCode),
			Error: errorJSON{
				Type: text(f.ErrorType), Message: text(f.ErrorMessage), Param: text(f.ErrorParam), DocURL: text(f.ErrorDocURL),
				PaymentMethodType: text(f.ErrorMethodType), RequestLogURL: text(f.ErrorLogURL),
			},
			Category: f.Category, Severity: f.Severity, Disclosable: f.Disclosable, NextStep: f.NextStep,
			MerchantNextStep: f.MerchantNextStep, DecidedBy: f.DecidedBy,
		},
		Message:       messageOf(publicOf(f.PublicCode, f.PublicNextStep, f.PublicField, f.PublicRetry), locale, f.Locale, s.AccountLocales[f.Account]),
		Presence:      presenceJSON{Verdict: f.Presence, Evidence: evidenceOf(f.Evidence)},
		Retry:         retryOf(f.Attempt),
		PaymentStatus: f.PaymentStatus, Notifications: notificationsOf(f.Notifications), Events: listed(f.Events),
	}
}

func methodOf(a store.Attempt) methodJSON {
	return methodJSON{
		ID: text(a.MethodID), Type: text(a.MethodType), Brand: text(a.Brand), Network: text(a.Network), Last4: text(a.Last4),
		ExpMonth: number(a.ExpMonth), ExpYear: number(a.ExpYear), Country: text(a.Country), Funding: text(a.Funding),
		Fingerprint: text(a.Fingerprint),
		Checks:      checksJSON{CVC: text(a.CVCCheck), PostalCode: text(a.PostalCheck), Address: text(a.AddressCheck)},
	}
}

func retryOf(a store.Attempt) retryJSON {
	return retryJSON{Verdict: a.RetryVerdict, AttemptsUsed: a.AttemptsUsed, AttemptsLeft: a.AttemptsLeft,
		NotBefore: moment(a.RetryNotBefore), LimitedBy: text(a.RetryLimitedBy)}
}

// publicOf is the stored public view; one that is missing reads as the generic decline.
func publicOf(code, nextStep, field string, retry bool) decline.Public {
	if code == "" {
		return decline.Generic()
	}
	return decline.Public{Code: code, NextStep: decline.NextStep(nextStep), Field: decline.Field(field), RetrySameMethod: retry}
}

func messageOf(p decline.Public, preferred ...string) messageJSON {
	m := p.Message(decline.MatchLocale(preferred...))
	return messageJSON{Code: m.Code, Locale: m.Locale, Text: m.Text}
}

func evidenceOf(words []string) []evidenceJSON {
	out := make([]evidenceJSON, len(words))
	for i, w := range words {
		out[i].Rung, out[i].Weight, _ = strings.Cut(w, "=")
	}
	return out
}

func notificationsOf(rows []store.Notification) []notificationJSON {
	out := make([]notificationJSON, len(rows))
	for i, n := range rows {
		out[i] = notificationJSON{ID: n.ID, Channel: n.Channel, Template: n.Template, Status: n.Status, Reason: text(n.Reason),
			DueAt: n.DueAt.UTC(), SentAt: moment(n.SentAt), Unseen: n.Channel == store.ChannelCheckout && n.Status == store.Sent && n.ShownCode == ""}
	}
	return out
}

// text is null where nothing was said.
func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func number(n int64) *int64 {
	if n == 0 {
		return nil
	}
	return &n
}

func moment(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

// listed is never null: an empty list is one.
func listed(words []string) []string { return append([]string{}, words...) }
