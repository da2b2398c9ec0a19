package handler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/decline"
	"rebound/store"
)

var (
	testKey = PaymentKey{PaymentID: "pi_1", Source: "stripe", Livemode: false}
	testNow = time.Unix(1_790_000_100, 0).UTC()
)

const testCreated = 1_790_000_000

func fact(event, eventType, object string) Fact {
	return Fact{
		PaymentKey: testKey, EventID: event, APIVersion: "2024-06-20", EventType: eventType, Created: testCreated,
		ReceivedAt: testNow, Object: object, PaymentIntent: "pi_1", Customer: "cus_1", Amount: 4200, Currency: "usd",
		MethodID: "pm_1", MethodType: "card", RequestOrigin: "none",
	}
}

func chargeFailed(n int, reason string) Fact {
	f := fact(fmt.Sprintf("evt_ch%d", n), "charge.failed", "charge")
	f.Charge, f.ObjectID = fmt.Sprintf("ch_%d", n), fmt.Sprintf("ch_%d", n)
	f.FailureCode, f.OutcomeType, f.OutcomeReason = "card_declined", "issuer_declined", reason
	return f
}

func intentFailed(n int, code string) Fact {
	f := fact(fmt.Sprintf("evt_pi%d", n), "payment_intent.payment_failed", "payment_intent")
	f.ObjectID, f.LatestCharge = "pi_1", fmt.Sprintf("ch_%d", n)
	f.ErrorCode, f.DeclineCode = "card_declined", code
	return f
}

func succeeded() Fact {
	f := fact("evt_ok", "payment_intent.succeeded", "payment_intent")
	f.ObjectID, f.LatestCharge = "pi_1", "ch_3"
	return f
}

func derive(facts ...Fact) Derived { return Derive(testKey, facts, nil, decline.Rules{}) }

func testPolicy() Policy {
	return Policy{
		Hold: time.Minute, HoldWeak: 30 * time.Minute, MaxAge: 24 * time.Hour, SMTPConfigured: true, MessageIDDomain: "example.test",
		NotificationID: func(k PaymentKey, channel, template, scope string) string {
			return "nt_" + k.PaymentID + channel + template + scope
		},
		AttemptID: func(prefix string, k PaymentKey, attempt string) string { return prefix + attempt },
	}
}

func TestBothEventsOfOneAttemptAreOneFailure(t *testing.T) {
	t.Parallel()
	d := derive(intentFailed(1, "insufficient_funds"), chargeFailed(1, "insufficient_funds"))
	require.Len(t, d.Attempts, 1)
	require.Equal(t, "ch_1", d.Attempts[0].Charge)
	require.Equal(t, "insufficient_funds", d.Attempts[0].Code)
	require.Equal(t, []string{"evt_ch1", "evt_pi1"}, d.Attempts[0].Events)
	require.False(t, d.Attempts[0].AwaitsCharge)
	require.Equal(t, Failing, d.Payment.Status)
}

func TestTheIntentAloneAwaitsItsCharge(t *testing.T) {
	t.Parallel()
	d := derive(intentFailed(1, "insufficient_funds"))
	require.Len(t, d.Attempts, 1)
	require.True(t, d.Attempts[0].AwaitsCharge)
	require.Equal(t, "ch_1", d.Attempts[0].Charge)
}

func TestAStaleLatestChargeIsAnotherAttempt(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Fact){
		"an authentication failure has no charge": func(f *Fact) { f.ErrorCode = "payment_intent_authentication_failure" },
		"a customer's refusal has no charge":      func(f *Fact) { f.ErrorCode = "payment_method_customer_decline" },
		"an expired attempt has no charge":        func(f *Fact) { f.ErrorCode = "payment_intent_payment_attempt_expired" },
		"another payment method":                  func(f *Fact) { f.MethodID = "pm_2" },
		"too long after the charge":               func(f *Fact) { f.Created += TwinWindow + 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stale := intentFailed(1, "")
			stale.EventID = "evt_stale"
			change(&stale)
			d := derive(chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds"), stale)
			require.Len(t, d.Attempts, 2)
			require.Equal(t, "ch_1", d.Attempts[0].Charge)
			require.Empty(t, d.Attempts[1].Charge)
		})
	}
}

func TestTheErrorsOwnChargeLinksWhateverElseDiffers(t *testing.T) {
	t.Parallel()
	pi := intentFailed(9, "insufficient_funds")
	pi.Charge, pi.MethodID, pi.Created = "ch_1", "pm_other", testCreated+3600
	require.Len(t, derive(chargeFailed(1, "insufficient_funds"), pi).Attempts, 1)
}

func TestOneEventInTwoVersionsIsOneAttempt(t *testing.T) {
	t.Parallel()
	older, newer := intentFailed(1, ""), intentFailed(1, "authentication_not_handled")
	older.APIVersion, newer.APIVersion = "2020-08-27", "2025-04-30.basil"
	older.LatestCharge = "" // only the newer rendering names the charge
	newer.NetworkDeclineCode = "1A"
	d := derive(older, newer)
	require.Len(t, d.Attempts, 1)
	require.Equal(t, "1A", d.Attempts[0].NetworkDeclineCode)
	require.Equal(t, []string{"evt_pi1"}, d.Attempts[0].Events)
}

// In the versions of 2018 an error has a source, which a payment method is not.
func TestOneEventIsOneAttemptThoughOneOfItsVersionsKnowsNoMethod(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"card_declined", "payment_intent_authentication_failure"} {
		older, newer := intentFailed(1, ""), intentFailed(1, "")
		older.ErrorCode, newer.ErrorCode = code, code
		older.APIVersion, older.MethodID, newer.MethodID = "2018-02-28", "", "pm_2"
		d := derive(chargeFailed(1, "insufficient_funds"), older, newer)
		require.Len(t, d.Failed, 2, "the charge is of pm_1, and another attempt's: %s", code)
		require.Equal(t, "pm_2", d.Attempts[1].MethodID)
		require.Equal(t, []string{"evt_pi1"}, d.Attempts[1].Events)
	}
}

func TestOneEventIsOneAttemptThoughOneOfItsVersionsKnowsNoMoreThanThatItWasDeclined(t *testing.T) {
	t.Parallel()
	older, newer := intentFailed(1, ""), intentFailed(1, "insufficient_funds")
	older.APIVersion = "2018-02-28"
	older.LatestCharge, newer.LatestCharge = "", ""
	require.Len(t, derive(older, newer).Failed, 1)
}

func TestEitherOfAnEventsVersionsNamesItsCharge(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2018-02-28", "2025-04-30.basil"} {
		naming, silent := intentFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds")
		naming.APIVersion, silent.LatestCharge = version, ""
		d := derive(naming, silent)
		require.Len(t, d.Failed, 1, version)
		require.Equal(t, "ch_1", d.Attempts[0].Charge, version)
	}
}

func TestTwinsAreAMinuteApartAtMost(t *testing.T) {
	t.Parallel()
	for apart, attempts := range map[int64]int{-61: 2, -60: 1, 60: 1, 61: 2} {
		twin := intentFailed(1, "insufficient_funds")
		twin.Created += apart
		require.Len(t, derive(chargeFailed(1, "insufficient_funds"), twin).Failed, attempts, apart)
	}
}

func TestAReportThatNamesNoMethodIsNoOtherAttempts(t *testing.T) {
	t.Parallel()
	charge, intent := chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds")
	charge.MethodID = ""
	require.Len(t, derive(charge, intent).Failed, 1)
	charge.MethodID, intent.MethodID = "pm_1", ""
	require.Len(t, derive(charge, intent).Failed, 1)
}

// While a charge's own event is not here, the first failure of the intent that names it stands for it, with the method that any
// of its versions knows.
func TestTheMethodOfAChargeNotHereIsWhatAnyVersionOfItsReportSays(t *testing.T) {
	t.Parallel()
	older, newer, stale := intentFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds"), intentFailed(2, "insufficient_funds")
	older.APIVersion, older.MethodID = "2018-02-28", ""
	stale.LatestCharge, stale.MethodID, stale.Created = "ch_1", "pm_2", testCreated+10
	d := derive(older, newer, stale)
	require.Len(t, d.Failed, 2)
	require.Empty(t, d.Attempts[1].Charge)
}

// Attempts of one second are in the order of their events, which no key, and so no hidden code, decides.
func TestAttemptsOfOneSecondAreInTheOrderOfTheirEvents(t *testing.T) {
	t.Parallel()
	first, last := chargeFailed(1, "insufficient_funds"), chargeFailed(2, "expired_card")
	first.Charge, last.Charge = "ch_b", "ch_a"
	d := derive(last, first)
	require.Equal(t, []string{"ch_b", "ch_a"}, []string{d.Failed[0].key, d.Failed[1].key})
}

func TestTheNewestWordOfAChargeStands(t *testing.T) {
	t.Parallel()
	older, newer := chargeFailed(1, "insufficient_funds"), chargeFailed(1, "expired_card")
	newer.EventID, newer.Created = "evt_again", testCreated+1
	d := derive(older, newer)
	require.Len(t, d.Failed, 1)
	require.Equal(t, "expired_card", d.Attempts[0].OutcomeReason)
	older.Created, older.EventID = newer.Created, "evt_zz"
	require.Equal(t, "insufficient_funds", derive(older, newer).Attempts[0].OutcomeReason, "of one second the greater id")
}

// A transfer that lies between two charges as near to it as each other is the earlier one's.
func TestATransferBetweenTwoChargesIsOfTheEarlier(t *testing.T) {
	t.Parallel()
	of := func(event, eventType, charge string, at int64) Fact {
		f := fact(event, eventType, "charge")
		f.Source, f.Charge, f.Created = "frame", charge, testCreated+at
		return f
	}
	d := derive(of("1", "charge.failed", "ch_b", 0), of("2", "charge.failed", "ch_a", 20), of("3", "transfer.failed", "", 10))
	require.Len(t, d.Failed, 2)
	require.Equal(t, []string{"1", "3"}, d.Failed[0].row.Events)
}

// What an attempt was paid with is known by any of its reports, not only by the first.
func TestAStaleLatestChargeIsAnotherAttemptsThoughAReportOfTheChargeNamesNoMethod(t *testing.T) {
	t.Parallel()
	bare, full, intent, named := chargeFailed(1, "insufficient_funds"), chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds")
	bare.APIVersion, bare.MethodID = "2018-02-28", ""
	named.LatestCharge, named.Charge = "", "ch_1"
	for name, reports := range map[string][]Fact{
		"the charge's in another version":      {bare, full},
		"the intent's":                         {bare, intent},
		"the intent's, which names the charge": {bare, named},
	} {
		stale := intentFailed(1, "do_not_honor")
		stale.EventID, stale.MethodID, stale.Created = "evt_stale", "pm_2", testCreated+30
		d := derive(append(reports, stale)...)
		require.Len(t, d.Failed, 2, name)
		require.Equal(t, "ch_1", d.Attempts[0].Charge, name)
		require.Equal(t, "insufficient_funds", d.Attempts[0].Code, name)
		require.Equal(t, "pm_2", d.Attempts[1].MethodID, name)
	}
	other := intentFailed(1, "do_not_honor")
	other.EventID, other.MethodID = "evt_other", "pm_2"
	require.Len(t, derive(bare, other).Failed, 1, "nothing tells them apart")
}

// TestStateIsAFunctionOfTheSetOfFacts draws random sets and checks that no order of them, and no repetition, changes
// what is derived or decided.
func TestStateIsAFunctionOfTheSetOfFacts(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	pool := []Fact{
		chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds"), chargeFailed(2, "stolen_card"),
		intentFailed(2, "generic_decline"), succeeded(), intentFailed(1, "do_not_honor"),
	}
	pool[5].EventID, pool[5].APIVersion = "evt_pi1", "2025-04-30.basil" // the same event in another version
	action := fact("evt_act", "payment_intent.requires_action", "payment_intent")
	action.ObjectID = "pi_1"
	link := fact("evt_in", "invoice.payment_failed", "invoice")
	link.Invoice, link.BillingReason, link.RequestOrigin = "in_1", "subscription_cycle", ""
	canceled := fact("evt_cx", "payment_intent.canceled", "payment_intent")
	canceled.ObjectID, canceled.Created = "pi_1", testCreated+5
	late := intentFailed(3, "expired_card")
	late.MethodID, late.Created = "pm_2", testCreated+90
	pool = append(pool, action, link, canceled, late)
	for range 2000 {
		var facts []Fact
		for _, f := range pool {
			if rng.IntN(2) == 0 {
				facts = append(facts, f)
			}
		}
		want := derive(facts...)
		wantSaid := testPolicy().Decide(want, testNow)
		for range 4 {
			rng.Shuffle(len(facts), func(i, j int) { facts[i], facts[j] = facts[j], facts[i] })
			got := derive(facts...)
			require.Equal(t, want.Payment, got.Payment)
			require.Equal(t, want.Attempts, got.Attempts)
			require.Equal(t, wantSaid, testPolicy().Decide(got, testNow))
		}
	}
}

func TestSuccessAbsorbsEverything(t *testing.T) {
	t.Parallel()
	for name, facts := range map[string][]Fact{
		"success first": {succeeded(), chargeFailed(1, "insufficient_funds")},
		"success alone": {succeeded()},
		"with a cancel": {succeeded(), fact("evt_cx", "payment_intent.canceled", "payment_intent")},
	} {
		require.Equal(t, Recovered, derive(facts...).Payment.Status, name)
	}
	d := derive(chargeFailed(1, "insufficient_funds"), succeeded())
	require.Len(t, d.Attempts, 2)
	for _, n := range testPolicy().Decide(d, testNow) {
		require.Equal(t, store.Canceled, n.Status, n.Channel)
		require.Equal(t, ReasonRecovered, n.Reason)
	}
}

func TestPendingIsTheNewestIntentEventTiesIncluded(t *testing.T) {
	t.Parallel()
	action := fact("evt_a", "payment_intent.requires_action", "payment_intent")
	require.Equal(t, Pending, derive(action, intentFailed(1, "x")).Payment.Status, "a tie counts")
	action.Created--
	require.Equal(t, Failing, derive(action, intentFailed(1, "x")).Payment.Status)
	require.Equal(t, Pending, derive(action, chargeFailed(1, "x")).Payment.Status, "only intent events are compared")
}

func TestAPaymentOfFrameIsPendingWhileTheCustomerHasToAct(t *testing.T) {
	t.Parallel()
	for _, event := range []string{"charge_intent.requires_action", "charge_intent.payment_action_required"} {
		action := fact("evt_a", event, "charge_intent")
		action.Source = "frame"
		require.Equal(t, Pending, derive(action).Payment.Status, event)
	}
}

// By its time a success supersedes what the customer failed to pay before it, not what came between it and a look-up.
func TestASuccessIsOfTheTimeThatItsEventSays(t *testing.T) {
	t.Parallel()
	read := succeeded()
	read.EventID, read.RequestOrigin, read.Created = "api:pi_1:succeeded", "", testCreated+3600
	require.EqualValues(t, testCreated, derive(read, succeeded()).Payment.SucceededCreated)
	require.EqualValues(t, testCreated+3600, derive(read).Payment.SucceededCreated, "all that is known")
}

// From the earliest failure on a success of the customer's supersedes it.
func TestAPaymentHasFailedSinceItsEarliestFailure(t *testing.T) {
	t.Parallel()
	again := chargeFailed(2, "do_not_honor")
	again.Created += 3600
	require.EqualValues(t, testCreated, derive(again, chargeFailed(1, "insufficient_funds")).Payment.FailedCreated)
}

func TestTheNewestWordOnWhereTheCustomerWasStands(t *testing.T) {
	t.Parallel()
	older, newer := chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds")
	older.Session, newer.Session = OnSession, OffSession
	newer.Created++
	require.Equal(t, OffSession, derive(newer, older).Attempts[0].Presence)
}

func TestAnAttemptWhoseFirstEventCameInTimeIsNoOldNews(t *testing.T) {
	t.Parallel()
	soon, late := chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds")
	soon.Moto, late.ReceivedAt = true, late.ReceivedAt.Add(time.Hour)
	require.Equal(t, []string{"moto=strong"}, derive(soon, late).Attempts[0].Evidence)
}

// Of an invoice's payment the bank may ask for the customer's action while Stripe collects on its own.
func TestAnActionAskedForOfAnInvoicesPaymentShowsNobody(t *testing.T) {
	t.Parallel()
	ask, charge := withCreated(fact("evt_a", "payment_intent.requires_action", "payment_intent"), testCreated-30), chargeFailed(1, "insufficient_funds")
	require.Equal(t, OnSession, derive(ask, charge).Attempts[0].Presence)
	charge.Invoice = "in_1"
	require.Equal(t, OffSession, derive(ask, charge).Attempts[0].Presence)
}

// Frame's transfer knows the account that pays, its intent whose the payment is.
func TestAFailureAtFrameIsOfTheCustomerWhomThePaymentIsOf(t *testing.T) {
	t.Parallel()
	transfer, intent := fact("evt_t", "transfer.failed", "transfer"), fact("evt_i", "charge_intent.canceled", "charge_intent")
	transfer.Source, intent.Source, transfer.Customer = "frame", "frame", "acct_1"
	key := transfer.PaymentKey
	require.Equal(t, "cus_1", Derive(key, []Fact{transfer, intent}, nil, decline.Rules{}).Failed[0].row.Customer)
}

// A failure long after a charge that only latest_charge ties to it does not say what that charge was paid with.
func TestAFailureLongAfterAChargeDoesNotNameItsMethod(t *testing.T) {
	t.Parallel()
	charge, twin, stale := chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds"), intentFailed(1, "do_not_honor")
	charge.MethodID, twin.EventID, stale.EventID, stale.MethodID = "", "evt_z", "evt_a", "pm_2"
	twin.Created, stale.Created = testCreated+30, testCreated-TwinWindow-1
	require.Len(t, derive(charge, stale, twin).Failed, 2)
}

func TestAnInvoicesAmountIsNotThePayments(t *testing.T) {
	t.Parallel()
	invoice := fact("evt_in", "invoice.payment_failed", "invoice")
	invoice.Invoice, invoice.Amount, invoice.Created = "in_1", 9900, testCreated+1
	require.EqualValues(t, 4200, derive(chargeFailed(1, "insufficient_funds"), invoice).Payment.Amount)
}

func TestAnInvoiceIsSettledByWhateverEndsIt(t *testing.T) {
	t.Parallel()
	for event, want := range map[string]int64{
		"invoice.paid": testCreated, "invoice.payment_succeeded": testCreated, "invoice.voided": testCreated,
		"invoice.marked_uncollectible": testCreated, "invoice_payment.paid": testCreated, "invoice.payment_failed": 0,
	} {
		f := fact("evt_in", event, "invoice")
		require.Equal(t, want, deriveInvoice(testKey, []*Fact{&f}).SettledCreated, event)
	}
}

func TestOneFraudSignalHidesTheWholeAttempt(t *testing.T) {
	t.Parallel()
	generic := derive(chargeFailed(1, "generic_decline")).Attempts[0]
	d := derive(chargeFailed(1, "insufficient_funds"), intentFailed(1, "stolen_card"))
	require.Len(t, d.Attempts, 1)
	got := d.Attempts[0]
	require.False(t, got.Disclosable)
	require.Equal(t, generic.PublicCode, got.PublicCode)
	require.Equal(t, generic.PublicNextStep, got.PublicNextStep)
	require.Equal(t, generic.PublicField, got.PublicField)
	require.Equal(t, generic.PublicRetry, got.PublicRetry)
}

func TestTheLanguageIsTheNewestWordOnAnyEventOfThePayment(t *testing.T) {
	t.Parallel()
	charge, later := chargeFailed(1, "insufficient_funds"), fact("evt_act", "payment_intent.requires_action", "payment_intent")
	charge.Locale, later.Locale, later.Created = "fr", "de", testCreated+5
	d := derive(later, charge)
	require.Equal(t, "de", d.Attempts[0].Locale)
	for _, n := range testPolicy().Decide(d, testNow) {
		require.Equal(t, "de", n.Locale, n.Channel)
	}
}

func TestNobodyWritesToTheDeadWhateverAnotherCodeSays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		charge, intent string
		hidden         bool
	}{
		"another is hidden":         {"recipient_deceased", "mystery", true},
		"another decides":           {"account_closed", "recipient_deceased", false},
		"another decides, a hidden": {"mystery", "recipient_deceased", true},
	} {
		charge, intent := chargeFailed(1, ""), intentFailed(1, "")
		charge.MethodType, charge.FailureCode, intent.FailureCode = "sepa_debit", c.charge, c.intent
		d := derive(charge, intent)
		require.Equal(t, c.hidden, d.Failed[0].verdict.Hidden, name)
		require.Equal(t, ReasonNoContact, mailOf(t, d).Reason, name)
	}
}

// What is tried again on the dead's account fails for another reason; that somebody tries another account shows life.
func TestNobodyWritesToTheDeadAfterALaterAttempt(t *testing.T) {
	t.Parallel()
	for methods, want := range map[[2]string]string{
		{"pm_1", "pm_1"}: ReasonNoContact, {"pm_1", ""}: ReasonNoContact, {"", "pm_2"}: ReasonNoContact, {"pm_1", "pm_2"}: "",
	} {
		first, second := chargeFailed(1, ""), chargeFailed(2, "")
		first.MethodType, first.FailureCode, first.MethodID = "sepa_debit", "recipient_deceased", methods[0]
		second.MethodType, second.FailureCode, second.MethodID = "sepa_debit", "account_closed", methods[1]
		second.Created += 86_400
		d := derive(first, second)
		require.Equal(t, want, mailOf(t, d).Reason, methods)
		inbox := slices.ContainsFunc(testPolicy().Decide(d, testNow), func(n store.Notification) bool { return n.Channel == store.ChannelInbox })
		require.Equal(t, want == "", inbox, methods)
	}
}

func TestTheHoldRunsFromTheFirstFailureAndNeverRestarts(t *testing.T) {
	t.Parallel()
	first, second := chargeFailed(1, "insufficient_funds"), chargeFailed(2, "insufficient_funds")
	second.ReceivedAt = testNow.Add(45 * time.Second)
	mail := mailOf(t, derive(first, second))
	require.Equal(t, store.Held, mail.Status)
	require.Equal(t, testNow.Add(time.Minute), mail.DueAt)
	require.Equal(t, "fl_ch_2", mail.FailureID, "a later attempt changes what is said")
}

func TestAMailIsDueWhenTheLongestOfItsWaitsIsOver(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change               func(*Fact)
		hold, holdWeak, want time.Duration
	}{
		"weak evidence":                       {func(f *Fact) { f.RequestOrigin = "api" }, time.Minute, time.Hour, time.Hour},
		"weak evidence and a longer hold":     {func(f *Fact) { f.RequestOrigin = "api" }, time.Hour, time.Minute, time.Hour},
		"an unsaid invoice":                   {func(f *Fact) { f.APIVersion = invoiceGoneVersion }, time.Minute, time.Minute, invoiceWait},
		"an unsaid invoice and a longer hold": {func(f *Fact) { f.APIVersion = invoiceGoneVersion }, 2 * invoiceWait, time.Minute, 2 * invoiceWait},
	} {
		f, p := chargeFailed(1, "insufficient_funds"), testPolicy()
		c.change(&f)
		p.Hold, p.HoldWeak = c.hold, c.holdWeak
		said := p.Decide(derive(f), testNow)
		require.Equal(t, testNow.Add(c.want), said[len(said)-1].DueAt, name)
	}
}

func TestEveryDecisionNotToMailHasItsReason(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		change func(*Fact)
		policy func(*Policy)
		status string
		reason string
	}{
		"off session, known customer":                 {status: store.Held},
		"wrong mode":                                  {policy: func(p *Policy) { p.Livemode = true }, status: store.Suppressed, reason: ReasonWrongMode},
		"on session by the merchant's word":           {change: func(f *Fact) { f.Session = OnSession }, status: store.Suppressed, reason: ReasonOnSession},
		"in person":                                   {change: func(f *Fact) { f.MethodType = "card_present" }, status: store.Suppressed, reason: ReasonInPerson},
		"an invoice that Stripe mails about":          {change: func(f *Fact) { f.Invoice = "in_1" }, status: store.Suppressed, reason: ReasonStripeBilling},
		"an invoice whose customer is at the page":    {change: func(f *Fact) { f.Invoice, f.Session = "in_1", OnSession }, status: store.Suppressed, reason: ReasonOnSession},
		"an invoice that we mail about":               {change: func(f *Fact) { f.Invoice = "in_1" }, policy: func(p *Policy) { p.MailsInvoices = true }, status: store.Held},
		"a connected account with no profile":         {change: func(f *Fact) { f.Account = "acct_1" }, status: store.Suppressed, reason: ReasonNoProfile},
		"a connected account with a profile":          {change: func(f *Fact) { f.Account = "acct_1" }, policy: func(p *Policy) { p.Profiles = map[string]bool{"acct_1": true} }, status: store.Held},
		"too old":                                     {change: func(f *Fact) { f.ReceivedAt = testNow.Add(25 * time.Hour) }, status: store.Suppressed, reason: ReasonTooOld},
		"a guest with a card":                         {change: func(f *Fact) { f.Customer = "" }, status: store.Suppressed, reason: ReasonGuest},
		"a guest's bank debit":                        {change: func(f *Fact) { f.Customer, f.MethodType = "", "sepa_debit" }, status: store.Held},
		"unknown presence, known customer":            {change: func(f *Fact) { f.RequestOrigin, f.MethodID = "", "" }, status: store.Held},
		"unknown presence, inbox only":                {change: func(f *Fact) { f.RequestOrigin, f.MethodID = "", "" }, policy: func(p *Policy) { p.UnknownToInbox = true }, status: store.Suppressed, reason: ReasonPresenceUnknown},
		"no mail server":                              {policy: func(p *Policy) { p.SMTPConfigured = false }, status: store.Held, reason: store.ReasonSMTPNotConfigured},
		"a lone charge of a version without invoices": {change: func(f *Fact) { f.APIVersion = "2025-03-31.basil" }, status: store.Held, reason: ReasonInvoiceUnknown},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, p := chargeFailed(1, "insufficient_funds"), testPolicy()
			if c.change != nil {
				c.change(&f)
			}
			if c.policy != nil {
				c.policy(&p)
			}
			d := Derive(f.PaymentKey, []Fact{f}, nil, decline.Rules{})
			said := p.Decide(d, testNow)
			mail := said[len(said)-1]
			require.Equal(t, store.ChannelEmail, mail.Channel)
			require.Equal(t, c.status, mail.Status)
			require.Equal(t, c.reason, mail.Reason)
		})
	}
}

func mailOf(t *testing.T, d Derived) store.Notification {
	t.Helper()
	said := testPolicy().Decide(d, testNow)
	mail := said[len(said)-1]
	require.Equal(t, store.ChannelEmail, mail.Channel)
	return mail
}

func TestPresenceLadder(t *testing.T) {
	t.Parallel()
	checked := intentFailed(1, "insufficient_funds")
	checked.RequestOrigin, checked.CVCCheck = "api", "pass"
	cases := map[string]struct {
		change  func(*Fact)
		others  []Fact
		invoice *store.Invoice
		verdict string
		rung    string
	}{
		"the merchant's word beats all":     {change: func(f *Fact) { f.Session, f.MethodType = OffSession, "card_present" }, verdict: OffSession, rung: "metadata=strong"},
		"a card reader":                     {change: func(f *Fact) { f.MethodType = "interac_present" }, verdict: InPerson, rung: "in_person=strong"},
		"a bank debit":                      {change: func(f *Fact) { f.MethodType = "sepa_debit" }, verdict: OffSession, rung: "bank_debit=strong"},
		"old news":                          {change: func(f *Fact) { f.ReceivedAt = f.ReceivedAt.Add(11 * time.Minute) }, verdict: OffSession, rung: "late_event=strong"},
		"typed by staff":                    {change: func(f *Fact) { f.RequestOrigin, f.Moto = "api", true }, verdict: OffSession, rung: "moto=strong"},
		"failed authentication":             {change: func(f *Fact) { f.ErrorCode = "payment_intent_authentication_failure" }, verdict: OnSession, rung: "authentication_failure=strong"},
		"3-D Secure abandoned":              {change: func(f *Fact) { f.ThreeDSecure = "failed:abandoned" }, verdict: OnSession, rung: "three_d_secure=strong"},
		"3-D Secure with a challenge":       {change: func(f *Fact) { f.ThreeDSecureFlow = "challenge" }, verdict: OnSession, rung: "three_d_secure=strong"},
		"the bank's page was left":          {change: func(f *Fact) { f.ErrorCode = "payment_method_customer_decline" }, verdict: OnSession, rung: "redirect_left=strong"},
		"the bank's page was left for long": {change: func(f *Fact) { f.ErrorCode, f.MethodType = "payment_intent_payment_attempt_expired", "ideal" }, verdict: OnSession, rung: "redirect_left=strong"},
		"a voucher that nobody paid": {change: func(f *Fact) {
			f.RequestOrigin, f.ErrorCode, f.MethodType, f.OrderReference = "api", "payment_intent_payment_attempt_expired", "konbini", "cs_1"
		}, verdict: OffSession, rung: "voucher=strong"},
		"a Pix code that nobody paid in its day": {
			change: func(f *Fact) {
				f.RequestOrigin, f.ErrorCode, f.MethodType = "none", "payment_intent_payment_attempt_expired", "pix"
			},
			others:  []Fact{withCreated(fact("evt_a", "payment_intent.requires_action", "payment_intent"), testCreated-86_400)},
			verdict: OffSession, rung: "voucher=strong",
		},
		"a Pix code of a few minutes": {
			change: func(f *Fact) {
				f.RequestOrigin, f.ErrorCode, f.MethodType = "none", "payment_intent_payment_attempt_expired", "pix"
			},
			others:  []Fact{withCreated(fact("evt_a", "payment_intent.requires_action", "payment_intent"), testCreated-300)},
			verdict: OnSession, rung: "requires_action=strong",
		},
		"a voucher that was not made": {change: func(f *Fact) {
			f.ErrorCode, f.MethodType, f.OrderReference = "payment_method_provider_decline", "konbini", "cs_1"
		}, verdict: OnSession, rung: "checkout_session=strong"},
		"a Checkout order":                  {change: func(f *Fact) { f.OrderReference = "cs_1" }, verdict: OnSession, rung: "checkout_session=strong"},
		"a renewal":                         {change: func(f *Fact) { f.Invoice = "in_1"; f.RequestOrigin = "api" }, invoice: &store.Invoice{BillingReason: "subscription_cycle"}, verdict: OffSession, rung: "invoice_cycle=strong"},
		"Stripe acted by itself":            {verdict: OffSession, rung: "request_none=strong"},
		"a mandate that does not hold":      {change: func(f *Fact) { f.RequestOrigin = "api"; f.ErrorCode = "payment_intent_mandate_invalid" }, verdict: OffSession, rung: "mandate=strong"},
		"authentication wanted, none made":  {change: func(f *Fact) { f.RequestOrigin = "api"; f.OutcomeReason = "authentication_required" }, verdict: OffSession, rung: "authentication_required=strong"},
		"setup_future_usage means presence": {change: func(f *Fact) { f.RequestOrigin = "api"; f.SetupFutureUsage = "off_session" }, verdict: OnSession, rung: "setup_future_usage=strong"},
		"an unsaved method":                 {change: func(f *Fact) { f.RequestOrigin = "api"; f.MethodSaved = "no" }, verdict: OnSession, rung: "unsaved_method=strong"},
		"a method made just now":            {change: func(f *Fact) { f.RequestOrigin = "api"; f.MethodCreated = testCreated - 60 }, verdict: OnSession, rung: "fresh_method=strong"},
		"a method made after the failure":   {change: func(f *Fact) { f.RequestOrigin = "api"; f.MethodCreated = testCreated + 60 }, verdict: OffSession, rung: "saved_method=weak"},
		"a security code was typed":         {change: func(f *Fact) { f.RequestOrigin = "api"; f.CVCCheck = "pass" }, verdict: OnSession, rung: "cvc_check=strong"},
		"a security code of the intent's":   {change: func(f *Fact) { f.RequestOrigin = "api" }, others: []Fact{checked}, verdict: OffSession, rung: "saved_method=weak"},
		"a saved card and nothing else":     {change: func(f *Fact) { f.RequestOrigin = "api" }, verdict: OffSession, rung: "saved_method=weak"},
		"a wallet may be one click":         {change: func(f *Fact) { f.RequestOrigin = "api"; f.Wallet = "apple_pay" }, verdict: Unseen},
		"setup_future_usage of an invoice":  {change: func(f *Fact) { f.RequestOrigin = "api"; f.SetupFutureUsage = "off_session"; f.Invoice = "in_1" }, verdict: OffSession, rung: "saved_method=weak"},
		"an action asked for just before":   {change: func(f *Fact) { f.RequestOrigin = "api" }, others: []Fact{withCreated(fact("evt_a", "payment_intent.requires_action", "payment_intent"), testCreated-30)}, verdict: OnSession, rung: "requires_action=strong"},
		"an action asked for long before":   {change: func(f *Fact) { f.RequestOrigin = "api" }, others: []Fact{withCreated(fact("evt_a", "payment_intent.requires_action", "payment_intent"), testCreated-3600)}, verdict: OffSession, rung: "saved_method=weak"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := chargeFailed(1, "insufficient_funds")
			if c.change != nil {
				c.change(&f)
			}
			d := Derive(testKey, append([]Fact{f}, c.others...), c.invoice, decline.Rules{})
			got := d.Failed[0].row
			require.Equal(t, c.verdict, got.Presence)
			if c.rung == "" {
				require.Empty(t, got.Evidence)
			} else {
				require.Equal(t, []string{c.rung}, got.Evidence)
			}
		})
	}
}

func withCreated(f Fact, created int64) Fact {
	f.Created = created
	return f
}
