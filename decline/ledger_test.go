package decline_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/decline"
)

var asked = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// soft is an insufficient_funds decline of a merchant's charge on a card, an hour ago, on a payment of its own.
func soft(network string, change ...func(*decline.Question)) decline.Question {
	q := decline.Question{
		Try: decline.Try{ID: "fl_q", PaymentID: "pi_q", At: asked.Add(-time.Hour), Card: "fp_1", MethodID: "pm_1", Amount: 2000, Currency: "usd",
			By: decline.ByMerchant, Network: network, Country: "US", Code: "insufficient_funds", DeclineCode: "insufficient_funds"},
		Retry:    decline.Retry{Verdict: decline.RetryNow, AttemptsUsed: 1, AttemptsLeft: 3},
		Category: decline.InsufficientFunds, NextStep: decline.UseAnotherMethod,
	}
	for _, f := range change {
		f(&q)
	}
	return q
}

// earlier makes n tries like q on payments of their own, the newest age ago and each step before the next.
func earlier(q decline.Question, n int, age, step time.Duration, change ...func(*decline.Try)) []decline.Try {
	var out []decline.Try
	for i := range n {
		t := q.Try
		t.ID = fmt.Sprintf("fl_%s_%d_%s", age, i, step)
		t.PaymentID = "pi_" + t.ID
		t.At = asked.Add(-age - time.Duration(i)*step)
		for _, f := range change {
			f(&t)
		}
		out = append(out, t)
	}
	return out
}

func by(i decline.Initiator) func(*decline.Try) { return func(t *decline.Try) { t.By = i } }

func TestEachLimitIsKept(t *testing.T) {
	t.Parallel()
	onPayment := func(t *decline.Try) { t.PaymentID = "pi_q" }
	category := func(code string) func(*decline.Try) { return func(t *decline.Try) { t.NetworkDeclineCode = code } }
	advice := func(code string) func(*decline.Try) { return func(t *decline.Try) { t.NetworkAdviceCode = code } }
	otherAmount := func(t *decline.Try) { t.Amount = 999 }
	dataError := func(q *decline.Question) {
		q.Category, q.Retry.Verdict = decline.DataError, decline.AfterCustomerAction
	}
	customer := func(q *decline.Question) { q.By = decline.ByCustomer }
	unknown := func(q *decline.Question) { q.By = decline.ByUnknown }
	brazil := func(q *decline.Question) { q.Country = "BR" }
	visa, mastercard := soft("visa"), soft("mastercard")
	const month = 30 * 24 * time.Hour
	for _, c := range []struct {
		name    string
		q       decline.Question
		tries   []decline.Try
		verdict decline.RetryVerdict
		rule    string
		until   time.Duration // after asked; 0: no time
	}{
		{"a first decline has every retry before it", visa, nil, decline.RetryNow, "", 0},
		{"a payment has four attempts", visa, earlier(visa, 3, 2*time.Hour, time.Hour, onPayment, by(decline.ByCustomer)), decline.AfterCustomerAction, "stripe:max_retries_per_charge", 0},
		{"whatever card they were made with", visa, earlier(visa, 3, 2*time.Hour, time.Hour, onPayment, func(t *decline.Try) { t.Card, t.MethodID = "fp_2", "pm_2" }), decline.AfterCustomerAction, "stripe:max_retries_per_charge", 0},
		{"a used-up payment that no method can help is over", soft("visa", func(q *decline.Question) { q.Category = decline.IntegrationError }), earlier(visa, 3, 2*time.Hour, time.Hour, onPayment), decline.RetryNever, "stripe:max_retries_per_charge", 0},
		{"three attempts leave one", visa, earlier(visa, 2, 2*time.Hour, time.Hour, onPayment), decline.RetryNow, "", 0},
		{"Visa's category 1 bars the card on every payment, years later", visa, earlier(visa, 1, 3*365*24*time.Hour, 0, category("04"), otherAmount), decline.RetryNever, "visa:category_1", 0},
		{"but not another card", visa, earlier(visa, 1, time.Hour, 0, category("04"), func(t *decline.Try) { t.Card, t.MethodID = "fp_2", "pm_2" }), decline.RetryNow, "", 0},
		{"nor does 04 on another network", mastercard, earlier(mastercard, 1, time.Hour, 0, category("04")), decline.RetryNow, "", 0},
		{"nor is another network's R0 Visa's", visa, earlier(mastercard, 1, time.Hour, 0, category("R0")), decline.RetryNow, "", 0},
		{"new details may follow a data error on a barred card", soft("visa", dataError), earlier(visa, 1, time.Hour, 0, category("14")), decline.AfterCustomerAction, "visa:category_1", 0},
		{"nineteen earlier and this one are Visa's twenty in 30 days", visa, earlier(visa, 19, 2*time.Hour, time.Hour), decline.RetryLater, "visa:category_4", month - 20*time.Hour},
		{"eighteen are not", visa, earlier(visa, 18, 2*time.Hour, time.Hour), decline.RetryNow, "", 0},
		{"nor are those of another amount", visa, earlier(visa, 40, 2*time.Hour, time.Hour, otherAmount), decline.RetryNow, "", 0},
		{"nor the customer's own", visa, earlier(visa, 40, 2*time.Hour, time.Hour, by(decline.ByCustomer)), decline.RetryNow, "", 0},
		{"unknown initiators count", visa, earlier(visa, 19, 2*time.Hour, time.Hour, by(decline.ByUnknown)), decline.RetryLater, "visa:category_4", month - 20*time.Hour},
		{"a decline of the customer's leaves room for neither once the merchant's is full", soft("visa", customer), earlier(visa, 20, 2*time.Hour, time.Hour), decline.RetryLater, "visa:category_4", month - 21*time.Hour},
		{"both kinds half used leave room for both", soft("visa", unknown), append(earlier(visa, 15, 2*time.Hour, time.Hour), earlier(visa, 15, 3*time.Hour, time.Minute, by(decline.ByCustomer))...), decline.RetryNow, "", 0},
		{"the count is named by this decline's category", soft("visa", func(q *decline.Question) { q.NetworkDeclineCode = "51" }), earlier(visa, 19, 2*time.Hour, time.Hour), decline.RetryLater, "visa:category_2", month - 20*time.Hour},
		{"what left the window does not count", visa, earlier(visa, 40, month, time.Hour), decline.RetryNow, "", 0},
		{"ten on one Mastercard in 24 hours, of any amount", mastercard, earlier(mastercard, 9, 2*time.Hour, time.Hour, otherAmount), decline.RetryLater, "mastercard:declines_24h", 14 * time.Hour},
		{"nine on another network are none of Mastercard's ten", mastercard, earlier(visa, 9, 2*time.Hour, time.Hour, otherAmount), decline.RetryNow, "", 0},
		{"thirty-five of one amount in 30 days", mastercard, earlier(mastercard, 34, 25*time.Hour, 19*time.Hour), decline.RetryLater, "mastercard:declines_30d", month - (25+33*19)*time.Hour},
		{"MAC 03 bars for 30 days", mastercard, earlier(mastercard, 1, month-time.Second, 0, advice("03"), otherAmount), decline.RetryNever, "mastercard:mac_03_21", 0},
		{"MAC 21 too", mastercard, earlier(mastercard, 1, time.Hour, 0, advice("21")), decline.RetryNever, "mastercard:mac_03_21", 0},
		{"and no longer", mastercard, earlier(mastercard, 1, month, 0, advice("03")), decline.RetryNow, "", 0},
		{"nor does the advice 03 of another network", mastercard, earlier(visa, 1, time.Hour, 0, advice("03"), otherAmount), decline.RetryNow, "", 0},
		{"MAC 30 on the same amount waits ten days", mastercard, earlier(mastercard, 1, 24*time.Hour, 0, advice("30")), decline.RetryLater, "mastercard:mac_30", 9 * 24 * time.Hour},
		{"but not on another", mastercard, earlier(mastercard, 1, 24*time.Hour, 0, advice("30"), otherAmount), decline.RetryNow, "", 0},
		{"a card declined too often rests for a day", soft("unionpay"), earlier(visa, 1, 20*time.Hour, 0, otherAmount, func(t *decline.Try) { t.FailureCode = "card_decline_rate_limit_exceeded" }), decline.RetryLater, "stripe:card_decline_rate_limit_exceeded", 4 * time.Hour},
		{"do_not_honor has one retry, and this was it", visa, earlier(visa, 1, 2*time.Hour, 0, onPayment, func(t *decline.Try) { t.Code = "do_not_honor" }), decline.AfterCustomerAction, "frame:one_retry", 0},
		{"on another payment it does not count", visa, earlier(visa, 1, 2*time.Hour, 0, func(t *decline.Try) { t.Code = "do_not_honor" }), decline.RetryNow, "", 0},
		{"a lost card needs a new method on every payment", visa, earlier(visa, 1, 48*time.Hour, 0, func(t *decline.Try) { t.Code = "lost_card" }), decline.AfterCustomerAction, "stripe:hard_decline_code", 0},
		{"authentication is asked for per payment", visa, earlier(visa, 1, 48*time.Hour, 0, func(t *decline.Try) { t.Code = "authentication_required" }), decline.RetryNow, "", 0},
		{"and holds there", visa, earlier(visa, 1, 48*time.Hour, 0, onPayment, func(t *decline.Try) { t.Code = "authentication_required" }), decline.AfterCustomerAction, "stripe:hard_decline_code", 0},
		{"whatever more specific code stands beside it", visa, earlier(visa, 1, 48*time.Hour, 0, onPayment, func(t *decline.Try) {
			t.Code, t.DeclineCode, t.FailureCode = "authentication_not_handled", "authentication_not_handled", "authentication_required"
		}), decline.AfterCustomerAction, "stripe:hard_decline_code", 0},
		{"Brazil charges Mastercard's eighth in a day", soft("mastercard", brazil), earlier(mastercard, 6, 2*time.Hour, time.Hour), decline.RetryLater, "abecs-brazil:mastercard_24h", 17 * time.Hour},
		{"Elo's irreversible codes bar the card", soft("elo"), earlier(soft("elo"), 1, 90*24*time.Hour, 0, category("41")), decline.RetryNever, "abecs-brazil:irreversible", 0},
		{"but another network's do not", soft("elo"), earlier(visa, 1, 90*24*time.Hour, 0, category("41")), decline.RetryNow, "", 0},
		{"an unnumbered network has a careful number", soft("amex"), earlier(soft("amex"), 19, 2*time.Hour, time.Hour), decline.RetryLater, "amex:operator_default", month - 20*time.Hour},
		{"spellings of a network are one", soft("American Express"), earlier(soft("amex"), 19, 2*time.Hour, time.Hour), decline.RetryLater, "amex:operator_default", month - 20*time.Hour},
		{"a debit of the ACH network may be sent twice more", soft("ach"), earlier(soft("ach"), 1, 4*24*time.Hour, 0, onPayment), decline.RetryNow, "", 0},
		{"and no more", soft("ach"), earlier(soft("ach"), 2, 4*24*time.Hour, 4*24*time.Hour, onPayment), decline.AfterCustomerAction, "ach:reinitiations", 0},
		{"the same account's debits for other payments are others", soft("ach"), earlier(soft("ach"), 9, 2*time.Hour, time.Hour), decline.RetryNow, "", 0},
		{"nor does another account's debit for this payment count", soft("ach"), earlier(soft("ach"), 2, 4*24*time.Hour, 4*24*time.Hour, onPayment, func(t *decline.Try) { t.Card, t.MethodID = "fp_2", "pm_2" }), decline.RetryNow, "", 0},
		{"an attempt that does not say its card may be any of its payment's", soft("", func(q *decline.Question) { q.Card, q.MethodID = "", "" }), earlier(visa, 1, 2*time.Hour, 0, onPayment, category("04")), decline.RetryNever, "visa:category_1", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := decline.Rules{}.Decide(c.q, decline.Use{Tries: c.tries}, asked)
			require.Equal(t, c.verdict, d.Verdict, "%+v", d)
			require.Equal(t, c.rule, d.LimitedBy)
			if c.until == 0 {
				require.Zero(t, d.NotBefore)
			} else {
				require.Equal(t, asked.Add(c.until), d.NotBefore)
				require.Equal(t, d.NotBefore, d.From)
				require.Equal(t, d.NotBefore.Sub(c.q.At), d.Wait)
			}
			require.Equal(t, c.verdict == decline.RetryNow, d.Allowed)
		})
	}
}

func TestOfAttemptsInOneSecondTheLaterCountsAsARetryOfTheEarlier(t *testing.T) {
	t.Parallel()
	for _, ids := range [][2]string{{"fl_a", "fl_z"}, {"fl_z", "fl_a"}} {
		q := soft("visa", func(q *decline.Question) { q.ID, q.Number = ids[1], 2 })
		first := q.Try
		first.ID, first.Number, first.Code = ids[0], 1, "do_not_honor"
		d := decline.Rules{}.Decide(q, decline.Use{Tries: []decline.Try{first, q.Try}}, asked)
		require.Equal(t, decline.AfterCustomerAction, d.Verdict, "do_not_honor allows one retry, and it was made: %v", ids)
	}
}

func TestTheAttemptsOwnVerdictStands(t *testing.T) {
	t.Parallel()
	q := soft("visa")
	q.Retry = decline.Retry{Verdict: decline.RetryNever, AttemptsUsed: 2, LimitedBy: "stripe:hard_decline_code"}
	d := decline.Rules{}.Decide(q, decline.Use{}, asked)
	require.Equal(t, decline.Retry{Verdict: decline.RetryNever, AttemptsUsed: 2, AttemptsLeft: 2, LimitedBy: "stripe:hard_decline_code"}, d.Retry)
	require.False(t, d.Allowed)

	own := asked.Add(40 * 24 * time.Hour)
	q.Retry = decline.Retry{Verdict: decline.RetryLater, NotBefore: own, LimitedBy: "mastercard:mac_30"}
	d = decline.Rules{}.Decide(q, decline.Use{Tries: earlier(q, 25, 2*time.Hour, time.Hour)}, asked)
	require.Equal(t, own, d.NotBefore, "by then Visa's window is free again")
	require.Equal(t, "mastercard:mac_30", d.LimitedBy)
}

func TestLaterWithoutATimeIsADay(t *testing.T) {
	t.Parallel()
	q := soft("visa")
	q.Retry.Verdict = decline.RetryLater
	d := decline.Rules{}.Decide(q, decline.Use{}, asked)
	require.False(t, d.Allowed)
	require.Zero(t, d.NotBefore, "no rule gives a time")
	require.Equal(t, q.At.Add(24*time.Hour), d.From)
	require.True(t, decline.Rules{}.Decide(q, decline.Use{}, d.From).Allowed)
}

func TestTheSettingBoundsThePayment(t *testing.T) {
	t.Parallel()
	q := soft("visa")
	for _, c := range []struct{ setting, used, left int }{{0, 1, 3}, {1, 1, 0}, {8, 7, 1}, {8, 8, 0}, {99, 8, 0}} {
		q.Retry.AttemptsUsed = c.used
		d := decline.Rules{MaxRetriesPerCharge: c.setting}.Decide(q, decline.Use{}, asked)
		require.Equal(t, c.left, d.AttemptsLeft)
		require.Equal(t, c.left > 0, d.Allowed)
	}
}

func TestLimitsAreThoseOfTheirDay(t *testing.T) {
	t.Parallel()
	old := time.Date(2025, 5, 1, 12, 0, 0, 0, time.UTC)
	q := soft("visa")
	q.At = old.Add(-time.Hour)
	var tries []decline.Try
	for i, e := range earlier(q, 15, 0, 0) {
		e.At = q.At.Add(-time.Duration(i) * time.Hour)
		tries = append(tries, e)
	}
	d := decline.Rules{}.Decide(q, decline.Use{Tries: tries}, old)
	require.Equal(t, "visa:category_2_to_4_older", d.LimitedBy)
	require.Equal(t, time.Date(2025, 5, 25, 0, 0, 0, 0, time.UTC), d.NotBefore, "from that day it is twenty")
}

func TestWhatIsNotSeenCountsAsTried(t *testing.T) {
	t.Parallel()
	q := soft("unionpay")
	since := asked.Add(-10 * 24 * time.Hour)
	d := decline.Rules{}.Decide(q, decline.Use{Since: since}, asked)
	require.Equal(t, decline.RetryLater, d.Verdict)
	require.Equal(t, "rebound:card_tried_too_often", d.LimitedBy)
	require.Equal(t, since.Add(decline.Lookback()), d.NotBefore)
	require.True(t, decline.Rules{}.Decide(q, decline.Use{Since: since}, d.NotBefore).Allowed)
}

func TestEveryRuleThatWasLookedAtIsShown(t *testing.T) {
	t.Parallel()
	q := soft("mastercard")
	d := decline.Rules{}.Decide(q, decline.Use{Tries: earlier(q, 11, 2*time.Hour, time.Hour)}, asked)
	rules := map[string]decline.RuleUse{}
	for _, r := range d.Rules {
		require.NotEmpty(t, r.Sources, r.Name)
		require.NotEmpty(t, r.Edition, r.Name)
		rules[r.Name] = r
	}
	day := rules["mastercard:declines_24h"]
	require.Equal(t, []any{10, 12, 24 * time.Hour, "card", true}, []any{day.Max, day.Used, day.Window, day.Scope, day.Limiting})
	require.Equal(t, asked.Add(14*time.Hour), day.Until, "the three oldest must leave the window")
	require.Equal(t, d.NotBefore, day.Until)
	month := rules["mastercard:declines_30d"]
	require.Equal(t, []any{35, 12, false}, []any{month.Max, month.Used, month.Limiting})
	require.Equal(t, []any{4, 1, "charge"}, []any{rules["stripe:max_retries_per_charge"].Max, rules["stripe:max_retries_per_charge"].Used, rules["stripe:max_retries_per_charge"].Scope})
	require.Contains(t, rules, "mastercard:mac_03_21")
	require.NotContains(t, rules, "visa:category_1")
	require.NotContains(t, rules, "mastercard:declines_24h_older")
}

// A limit that is added to the catalog must be one that the ledger keeps, or be marked as information.
func TestNoLimitOfTheCatalogIsPassedOver(t *testing.T) {
	t.Parallel()
	folded := map[string]string{
		"stripe:max_retries_per_charge_older": "the default of max_retries_per_charge", "stripe:smart_retries_default": "never above max_retries_per_charge",
		"abecs-brazil:other_brands_irreversible": "the same as irreversible",
	}
	for _, c := range decline.Caps() {
		if c.Status == "information" {
			continue
		}
		network, at := c.Network, asked
		switch {
		case network == "stripe", network == "abecs-brazil" && c.Rule == "mastercard_mac_03_21":
			network = "mastercard"
		case network == "abecs-brazil":
			network = "visa"
			if len(c.Rule) > 10 && c.Rule[:10] == "mastercard" {
				network = "mastercard"
			}
		}
		if !c.Until.IsZero() {
			at = c.Until.Add(-time.Hour)
		}
		q := soft(network, func(q *decline.Question) { q.Country, q.At = "BR", at.Add(-time.Hour) })
		switch c.Rule {
		case "category_2":
			q.NetworkDeclineCode = "51"
		case "category_3":
			q.NetworkDeclineCode = "N7"
		}
		name := c.Network + ":" + c.Rule
		var shown bool
		for _, r := range (decline.Rules{}).Decide(q, decline.Use{}, at).Rules {
			shown = shown || r.Name == name
		}
		require.NotEqual(t, folded[name] != "", shown, name)
	}
}

func TestBarringCodesAreThoseOfTheNetwork(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"04", "07", "12", "14", "15", "41", "43", "46", "57", "R0", "R1", "R3"}, decline.BarringCodes("Visa"))
	require.Empty(t, decline.BarringCodes("mastercard"))
	require.Subset(t, decline.BarringCodes(""), decline.BarringCodes("elo"))
}

func TestPresenceTellsTheInitiator(t *testing.T) {
	t.Parallel()
	require.Equal(t, decline.ByCustomer, decline.InitiatorOf("on_session"))
	require.Equal(t, decline.ByCustomer, decline.InitiatorOf("in_person"))
	require.Equal(t, decline.ByMerchant, decline.InitiatorOf("off_session"))
	require.Equal(t, decline.ByUnknown, decline.InitiatorOf("unknown"))
}

func BenchmarkDecide(b *testing.B) {
	q := soft("visa")
	use := decline.Use{Tries: earlier(q, 20, 2*time.Hour, time.Hour)}
	for b.Loop() {
		decline.Rules{}.Decide(q, use, asked)
	}
}

func TestARuleHasOneNameInTheVerdictAndInTheLimits(t *testing.T) {
	t.Parallel()
	facts := decline.Facts{Source: decline.Stripe, MethodType: "card", Network: "visa", DeclineCode: "authentication_not_handled",
		FailureCode: "authentication_required", ErrorCode: "authentication_required", AttemptsUsed: 1, FailedAt: asked}
	v := decline.Rules{}.Classify(facts)
	d := decline.Rules{}.Decide(decline.Question{
		Try: decline.Try{ID: "fl_1", PaymentID: "pi_1", At: asked, Card: "fp_1", Network: "visa", Code: v.Code, DeclineCode: facts.DeclineCode,
			ErrorCode: facts.ErrorCode, FailureCode: facts.FailureCode},
		Retry: v.Retry, Category: v.Category, NextStep: v.NextStep,
	}, decline.Use{}, asked)
	require.NotEmpty(t, d.LimitedBy)
	i := slices.IndexFunc(d.Rules, func(r decline.RuleUse) bool { return r.Name == d.LimitedBy })
	require.GreaterOrEqual(t, i, 0, "%s is none of %+v", d.LimitedBy, d.Rules)
	require.True(t, d.Rules[i].Limiting)
}
