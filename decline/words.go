package decline

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
)

//go:embed words/*.json
var wordFiles embed.FS

// Message is what a customer is told of a failed attempt.
type Message struct {
	Code   string // customer-safe
	Locale string // BCP 47, one of Locales
	Text   string // one or two short plain-text sentences, 200 characters at most
}

// Phrases are the fixed texts around a message, in one language. They are the same for every failure, whatever its
// reason. Texts hold the named placeholders {merchant}, {amount} and {support}; Fill replaces them.
type Phrases struct {
	Locale        string `json:"-"`
	RightToLeft   bool   `json:"-"`
	Subject       string `json:"subject"`        // {merchant}
	Preheader     string `json:"preheader"`      // {amount}
	Heading       string `json:"heading"`        // mail heading
	Intro         string `json:"intro"`          // {merchant}, {amount}
	Button        string `json:"button"`         // the one link of the mail
	AlreadyPaid   string `json:"already_paid"`   // nothing to do if paid meanwhile
	Support       string `json:"support"`        // {support}: whom to ask
	WhyThisMail   string `json:"why_this_mail"`  // {merchant}: why the customer gets this mail
	Reminder      string `json:"reminder"`       // {merchant}: subject of a reminder
	InboxTitle    string `json:"inbox_title"`    // {amount}
	Unsubscribe   string `json:"unsubscribe"`    // label of the preference link
	PageExpired   string `json:"page_expired"`   // mail link page: expired
	PageRecovered string `json:"page_recovered"` // mail link page: already paid
	PageClosed    string `json:"page_closed"`    // mail link page: payment canceled, nothing to pay
	PageUnsubAsk  string `json:"page_unsub_ask"` // unsubscribe page: question, {merchant}
	PageUnsubDone string `json:"page_unsub_done"`
}

// lexicon is one language's file under words/. A message is a reason and a step, each a whole sentence, so that the
// advice always agrees with Public.NextStep whatever the code says.
type lexicon struct {
	Reasons map[string]string `json:"reasons"`
	Steps   map[string]string `json:"steps"`
	Phrases Phrases           `json:"phrases"`
}

// lexicons reads each language at its first use, so that a command which words one message parses one file.
var lexicons = func() map[string]func() *lexicon {
	m := make(map[string]func() *lexicon, len(languages))
	for _, l := range languages {
		m[l.tag] = sync.OnceValue(func() *lexicon {
			lex, err := readLexicon(l)
			if err != nil {
				panic(err) // the files are part of the binary and a test reads each of them
			}
			return lex
		})
	}
	return m
}()

func readLexicon(l language) (*lexicon, error) {
	raw, err := wordFiles.ReadFile("words/" + l.tag + ".json")
	if err != nil {
		return nil, fmt.Errorf("reading words of %s: %w", l.tag, err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	lex := new(lexicon)
	if err := dec.Decode(lex); err != nil {
		return nil, fmt.Errorf("reading words of %s: %w", l.tag, err)
	}
	lex.Phrases.Locale = l.tag
	lex.Phrases.RightToLeft = l.rightToLeft
	return lex, nil
}

// Message words the public view in the language of locale, DefaultLocale when it is not supported.
func (p Public) Message(locale string) Message {
	l := languageOf(locale)
	lex := lexicons[l.tag]()
	m := Message{Code: p.Code, Locale: l.tag}
	reason, step := reasonDeclined, string(ContactIssuer) // the generic text, shared with every vague decline
	if s, ok := stepOf(p); ok && p.Code != GenericDecline && p.Code != "" {
		reason, step = reasonOf(p), s
	}
	m.Text = lex.Reasons[reason] + l.join + lex.Steps[step]
	return m
}

// PhrasesFor returns the fixed texts in the language of locale, DefaultLocale when it is not supported.
func PhrasesFor(locale string) Phrases { return lexicons[languageOf(locale).tag]().Phrases }

// Fill replaces the placeholders of a phrase. Values are inserted as they are; escaping is the template's task. A
// placeholder inside a value stays as it is. A merchant's name that ends in a full stop (Maple Inc.) ends its sentence too.
func Fill(phrase, merchant, amount, support string) string {
	if strings.HasSuffix(strings.TrimSuffix(merchant, "\u2069"), ".") { // it may be isolated
		phrase = strings.ReplaceAll(phrase, "{merchant}.", "{merchant}")
	}
	return strings.NewReplacer("{merchant}", merchant, "{amount}", amount, "{support}", support).Replace(phrase)
}

// Reasons and steps that are not named by a code or a NextStep alone.
const (
	reasonDeclined = "declined" // says no more than that the payment did not go through
	reasonDetails  = "details"

	stepAddress = "correct_address"
	stepPIN     = "correct_pin"
	stepInsert  = "insert_card"
)

// reasonOf names the sentence that says what happened.
func reasonOf(p Public) string {
	code := strings.TrimPrefix(p.Code, "partner_")
	if r, ok := reasons[code]; ok {
		return r
	}
	if p.NextStep == CorrectDetails {
		return reasonDetails
	}
	return reasonDeclined
}

// stepOf names the sentence that says what to do; false for a next step that has none.
func stepOf(p Public) (string, bool) {
	switch p.NextStep {
	case CorrectDetails:
		if s, ok := codeSteps[p.Code]; ok {
			return s, true
		}
		switch p.Field {
		case FieldNumber, FieldCVC, FieldExpiry, FieldPostalCode, FieldName, FieldAmount:
			return "correct_" + string(p.Field), true
		}
		return string(CorrectDetails), true
	case Authenticate:
		if codeSteps[p.Code] == stepInsert {
			return stepInsert, true
		}
		return string(p.NextStep), true
	case UseAnotherMethod, ContactIssuer, TryAgain, TryAgainLater, RenewAuthorization, CheckExistingPayment,
		ResumeCheckout, NoCustomerAction:
		return string(p.NextStep), true
	}
	return "", false
}

// codeSteps are the details to correct that have no form field of their own.
var codeSteps = map[string]string{
	"incorrect_address": stepAddress,
	"payment_method_billing_details_address_missing": stepAddress,

	"incorrect_pin":                  stepPIN,
	"invalid_pin":                    stepPIN,
	"offline_pin_required":           stepInsert,
	"online_or_offline_pin_required": stepInsert,
}

// reasons maps a customer-safe code to the sentence that says what happened, where the code adds something. Every
// other code gets the plain "declined" or, when details are to be corrected, "details".
var reasons = func() map[string]string {
	m := map[string]string{}
	for reason, codes := range map[string]string{
		"insufficient_funds": `insufficient_funds`,
		"card_expired":       `expired_card`,
		"details_expired":    `expired_payment_information`,
		"card_changed":       `new_account_information_available`,
		"authentication_needed": `authentication_required authentication_not_handled payment_intent_action_required
			invoice_payment_intent_requires_action mobile_device_authentication_required transaction_not_approved
			card_not_enrolled`,
		"authentication_unfinished": `payment_intent_authentication_failure setup_intent_authentication_failure`,
		"processing_error": `processing_error reenter_transaction generic_could_not_process could_not_process
			payment_method_microdeposit_processing_error rate_limit lock_timeout idempotency_key_in_use
			payment_intent_rate_limit_exceeded terminal_reader_timeout terminal_reader_offline
			terminal_reader_busy terminal_reader_hardware_fault`,
		"bank_unavailable": `issuer_not_available`,
		"provider_timeout": `payment_method_provider_timeout payment_method_not_available`,
		"limit": `card_velocity_exceeded withdrawal_count_limit_exceeded payment_limit_exceeded
			charge_exceeds_source_limit charge_exceeds_transaction_limit charge_exceeds_weekly_limit amount_too_large`,
		"attempts":     `card_decline_rate_limit_exceeded payment_method_microdeposit_verification_attempts_exceeded`,
		"pin_attempts": `pin_try_exceeded`,
		"currency":     `currency_not_supported invalid_currency payment_method_currency_mismatch`,
		"not_supported": `card_not_supported transaction_not_allowed not_permitted service_not_allowed
			unsupported_card_network invalid_card_type token_card_network_invalid sepa_unsupported_account
			payment_method_unsupported_type testmode_decline live_mode_test_card`,
		"mandate": `payment_intent_mandate_invalid billing_invalid_mandate setup_intent_mandate_invalid
			india_recurring_payment_mandate_canceled invalid_billing_agreement invalid_authorization
			authorization_revoked debit_authorization_not_match debit_not_authorized revocation_of_authorization
			revocation_of_all_authorizations stop_payment_order`,
		"bank_account": `account_closed bank_account_closed no_account bank_account_restricted bank_account_declined
			bank_account_unusable bank_account_unverified bank_account_verification_failed bank_ownership_changed
			payment_method_bank_account_blocked financial_connections_account_inactive`,
		"duplicate":     `duplicate_transaction`,
		"not_completed": `payment_method_customer_decline affirm_checkout_canceled acss_debit_session_incomplete`,
		"session_expired": `payment_intent_payment_attempt_expired setup_intent_setup_attempt_expired
			payment_method_microdeposit_verification_timeout`,
	} {
		for _, code := range strings.Fields(codes) {
			m[code] = reason
		}
	}
	return m
}()
