package decline_test

import (
	"encoding/csv"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/decline"
)

// These tests hold the catalog against the tables that the project collected from the sources. How those tables' words
// map to the contract's:
//
//	disclose yes / no                          Disclosable true / false
//	card_state_error, fraud_risk_signal,
//	issuer_side_unknown, the rest              card_state, fraud_risk, issuer_unknown, the same word
//	soft, soft_ish / hard / n/a                soft / hard / left open
//	stripe_auto_retry_allowed no               never or after_customer_action; yes only says "not one of Stripe's nine
//	                                           hard codes" and leaves the verdict open
//	yes, later, later_or_limit_raise           retry_later, or retry_now for what is a request and not a decline
//	no, never, never_same_method               never; after_customer_action for a data error or authentication, since a
//	                                           never is about the data or the unauthenticated attempt as it was sent
//	after_customer_action, after_fix, after_update,
//	after_authentication, new_mandate, limit_raise   after_customer_action
//	after_24h, wait_*                          retry_later with that wait
//	by_decline_code, see_message               an envelope: loses to every other code
//	not_advice, unknown, by_mac, null          left open
//	not_a_payment_failure                      integration_error, not disclosed, never
//
// A row that is stricter than its table has to carry its reason; a looser one is a failure.

// sourceTable reads a table of the collected sources as maps by column, or skips the test where they are not at hand.
func sourceTable(t *testing.T, name string) []map[string]string {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "shared", "catalog", name))
	if err != nil {
		t.Skipf("the collected source tables are not at hand: %v", err)
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	require.NoError(t, err)
	var out []map[string]string
	for _, l := range lines[1:] {
		m := map[string]string{}
		for i, h := range lines[0] {
			m[h] = l[i]
		}
		out = append(out, m)
	}
	require.NotEmpty(t, out)
	return out
}

func entry(t *testing.T, table decline.Table, network, code string) decline.Entry {
	t.Helper()
	for _, e := range decline.All() {
		if e.Table == table && e.Network == network && e.Code == code {
			return e
		}
	}
	require.Failf(t, "not in the catalog", "%s %s %s", table, network, code)
	return decline.Entry{}
}

// agree holds a verdict against a table's word on retries; see the mapping above.
func agree(t *testing.T, word string, e decline.Entry) {
	t.Helper()
	v := e.Verdict
	data := v.Category == decline.DataError || v.Category == decline.AuthenticationRequired
	allowed := map[string][]decline.RetryVerdict{}
	for w, verdicts := range map[string]string{
		"yes": "retry_later retry_now", "later": "retry_later", "later_or_limit_raise": "retry_later", "after_24h": "retry_later",
		"no": "never", "never": "never", "never_same_method": "never", "conflict_treat_as_no": "never",
		"after_customer_action": "after_customer_action", "after_fix": "after_customer_action", "after_update": "after_customer_action",
		"after_authentication": "after_customer_action", "new_mandate": "after_customer_action", "limit_raise": "after_customer_action",
	} {
		for _, s := range strings.Fields(verdicts) {
			allowed[w] = append(allowed[w], decline.RetryVerdict(s))
		}
		if data && verdicts == "never" {
			allowed[w] = append(allowed[w], decline.AfterCustomerAction)
		}
	}
	switch {
	case strings.HasPrefix(word, "wait_"):
		hours, err := strconv.Atoi(strings.Trim(word, "wait_hd"))
		require.NoError(t, err)
		if strings.HasSuffix(word, "d") {
			hours *= 24
		}
		require.Equal(t, decline.RetryLater, v.Retry.Verdict)
		require.Equal(t, time.Duration(hours)*time.Hour, v.Retry.Wait)
	case allowed[word] == nil:
		require.Contains(t, []string{"by_decline_code", "see_message", "not_advice", "unknown", "by_mac", "not_a_payment_failure"}, word, "a word that the mapping lacks")
		require.NotEmpty(t, e.Why, "what a table leaves open is decided in the row, with its reason")
	default:
		for _, ok := range allowed[word] {
			if v.Retry.Verdict == ok {
				return
			}
		}
		require.Greater(t, order[v.Retry.Verdict], order[allowed[word][0]], "looser than the source: %s", word)
		require.NotEmpty(t, e.Why, "stricter than the source (%s, here %s) without a reason", word, v.Retry.Verdict)
	}
}

func TestStripeDeclineCodesAgreeWithTheSources(t *testing.T) {
	t.Parallel()
	counts := map[string]int{}
	for _, s := range sourceTable(t, "stripe_decline_codes.csv") {
		t.Run(s["scope"]+"/"+s["code"], func(t *testing.T) {
			table := decline.StripeLocalDeclineCodes
			if s["scope"] == "card" {
				table = decline.StripeDeclineCodes
			}
			counts[s["scope"]]++
			e := entry(t, table, "", s["code"])
			require.Equal(t, strings.HasPrefix(s["disclose"], "yes"), e.Verdict.Disclosable)
			require.Equal(t, s["code"], e.Verdict.Code)
			require.NotEmpty(t, e.Why)
			if s["stripe_auto_retry_allowed"] == "no" {
				require.GreaterOrEqual(t, order[e.Verdict.Retry.Verdict], 2)
				require.Equal(t, "stripe:hard_decline_code", e.Verdict.Retry.LimitedBy)
			}
			if reason := s["charge_outcome_reason_if_different"]; reason != "" {
				v := decline.Rules{}.Classify(decline.Facts{Source: decline.Stripe, OutcomeType: "issuer_declined", OutcomeReason: reason, FailureCode: "card_declined", AttemptsUsed: 1})
				v.DecidedBy = e.Verdict.DecidedBy
				require.Equal(t, e.Verdict, v, "the partner_ form means the plain code")
			}
		})
	}
	require.Equal(t, map[string]int{"card": 50, "local_payment_method": 18, "card_india": 1}, counts)
}

func TestStripeErrorCodesAgreeWithTheSources(t *testing.T) {
	t.Parallel()
	payment := 0
	for _, s := range sourceTable(t, "stripe_error_codes.csv") {
		t.Run(s["code"], func(t *testing.T) {
			e := entry(t, decline.StripeErrorCodes, "", s["code"])
			require.NotEmpty(t, e.Why)
			agree(t, s["retryable"], e)
			switch s["retryable"] {
			case "by_decline_code", "see_message":
				v := decline.Rules{}.Classify(decline.Facts{Source: decline.Stripe, ErrorCode: s["code"], DeclineCode: "generic_decline"})
				require.Equal(t, "generic_decline", v.Code, "an envelope loses to everything")
			case "not_a_payment_failure":
				require.Equal(t, decline.IntegrationError, e.Verdict.Category)
				require.False(t, e.Verdict.Disclosable)
				require.Contains(t, []decline.RetryVerdict{decline.RetryNever, decline.RetryNow}, e.Verdict.Retry.Verdict)
				return
			case "after_24h":
				require.Equal(t, 24*time.Hour, e.Verdict.Retry.Wait)
			case "new_mandate":
				require.Equal(t, decline.Mandate, e.Verdict.Category)
			}
			if strings.Contains(s["meaning"], "never disclose") || strings.Contains(s["meaning"], "never write to the customer") {
				require.False(t, e.Verdict.Disclosable)
			}
			payment++
		})
	}
	require.Equal(t, 122, payment)
}

func TestStripeOutcomesAgreeWithTheSources(t *testing.T) {
	t.Parallel()
	tableOf := map[string]decline.Table{
		"type": decline.StripeOutcomeTypes, "network_status": decline.StripeNetworkStatuses,
		"risk_level": decline.StripeRiskLevels, "reason": decline.StripeOutcomeReasons,
	}
	plain := regexp.MustCompile(`decline_code (\w+)$`)
	for _, s := range sourceTable(t, "stripe_outcomes.csv") {
		t.Run(s["field"]+"/"+s["value"], func(t *testing.T) {
			if strings.HasPrefix(s["value"], "(") {
				require.Equal(t, decline.GenericDecline, decline.Rules{}.Classify(decline.Facts{Source: decline.Stripe}).Public.Code)
				return
			}
			e := entry(t, tableOf[s["field"]], "", s["value"])
			if m := plain.FindStringSubmatch(s["meaning"]); m != nil && s["field"] == "reason" && strings.HasPrefix(s["meaning"], "Local") {
				require.Equal(t, m[1], e.Verdict.Code)
			}
			for _, word := range []string{"Radar", "block", "risk; default rule"} {
				if s["field"] == "reason" && strings.Contains(s["meaning"], word) {
					require.False(t, e.Verdict.Disclosable)
					require.Equal(t, decline.Blocked, e.Verdict.Type)
				}
			}
			if strings.Contains(s["meaning"], "not a fraud signal") || s["value"] == "previously_declined_do_not_retry" {
				require.NotEqual(t, decline.FraudRisk, e.Verdict.Category)
			}
		})
	}
}

func TestFrameCodesAgreeWithTheSources(t *testing.T) {
	t.Parallel()
	category := map[string]decline.Category{"card_state_error": decline.CardState, "fraud_risk_signal": decline.FraudRisk, "issuer_side_unknown": decline.IssuerUnknown}
	// Of bank debits the contract has categories of its own, for what Frame's eight do not cover.
	contract := map[string]decline.Category{"account_closed": decline.BankAccount, "no_account": decline.BankAccount, "debit_not_authorized": decline.Mandate}
	severity := map[string]decline.Severity{"soft": decline.Soft, "soft_ish": decline.Soft, "hard": decline.Hard}
	rows, unclassed := sourceTable(t, "frame_decline_codes.csv"), 0
	for _, s := range rows {
		t.Run(s["code"], func(t *testing.T) {
			e := entry(t, decline.FrameDeclineCodes, "", s["code"])
			want, ok := category[s["category"]]
			if !ok {
				want = decline.Category(s["category"])
			}
			if own, ok := contract[s["code"]]; ok && s["in_source_category_table"] == "no" {
				want = own
			}
			require.Equal(t, want, e.Verdict.Category)
			if sev, ok := severity[s["soft_or_hard"]]; ok {
				require.Equal(t, sev, e.Verdict.Severity)
			}
			require.Equal(t, s["disclose"] == "yes", e.Verdict.Disclosable)
			require.NotEmpty(t, e.Why)
			if s["in_source_category_table"] == "no" {
				unclassed++
			}
			if s["soft_or_hard"] == "soft" {
				require.NotEqual(t, decline.RetryNever, e.Verdict.Retry.Verdict)
			}
		})
	}
	require.Len(t, rows, 53)
	require.Equal(t, 22, unclassed)
}

func TestAdviceAndNetworkCodesAgreeWithTheSources(t *testing.T) {
	t.Parallel()
	for _, s := range sourceTable(t, "advice_codes.csv") {
		t.Run(s["kind"]+"/"+s["network"]+"/"+s["code"], func(t *testing.T) {
			if strings.HasPrefix(s["code"], "(") {
				return // no advice: the codes decide
			}
			table := map[string]decline.Table{
				"advice_code": decline.StripeAdviceCodes, "network_advice_code": decline.NetworkAdviceCodes,
				"network_decline_code": decline.NetworkDeclineCodes, "decline_category": decline.NetworkDeclineCategories,
			}[s["kind"]]
			network := s["network"]
			if network == "stripe" {
				network = ""
			}
			e := entry(t, table, network, s["code"])
			agree(t, s["retryable"], e)
			if s["min_wait_hours"] != "" {
				h, err := strconv.Atoi(s["min_wait_hours"])
				require.NoError(t, err)
				require.Equal(t, time.Duration(h)*time.Hour, e.Verdict.Retry.Wait)
			}
			if strings.Contains(s["note"]+s["meaning"], "never disclose") || strings.Contains(s["note"], "do not disclose") {
				require.False(t, e.Verdict.Disclosable)
				require.Equal(t, generic(), e.Verdict.Public)
			}
			if c, ok := strings.CutPrefix(s["note"], "category "); ok && network == "visa" && table == decline.NetworkDeclineCodes {
				require.Equal(t, "category_"+c[:1], decline.NetworkGroup("visa", s["code"]))
			}
		})
	}
}

func TestNetworkRetryRulesAgreeWithTheSources(t *testing.T) {
	t.Parallel()
	single := regexp.MustCompile(`^[0-9A-Z]{2,3}$`)
	for _, s := range sourceTable(t, "network_retry_rules.csv") {
		t.Run(s["network"]+"/"+s["code_or_category"], func(t *testing.T) {
			code, word := s["code_or_category"], s["retry_allowed"]
			switch {
			case s["network"] == "stripe" && decline.Rules{}.Classify(decline.Facts{DeclineCode: code}).Unrecognized == "":
				v, _ := decline.Explain(code, decline.Stripe, "")
				require.NotEmpty(t, v)
				agree(t, word, v[0])
			case strings.HasPrefix(code, "MAC:"):
				agree(t, word, entry(t, decline.NetworkAdviceCodes, s["network"], code[4:]))
			case strings.Contains(code, "+MAC:"):
				left, advice, _ := strings.Cut(code, "+MAC:")
				for _, one := range strings.Split(left, "/") {
					agree(t, word, entry(t, decline.NetworkCombinations, s["network"], one+"+"+advice))
				}
			case single.MatchString(code):
				e := entry(t, decline.NetworkDeclineCodes, s["network"], code)
				agree(t, word, e)
				if strings.Contains(s["meaning"], "never disclose") || regexp.MustCompile(`(?i)lost|stolen|fraud|security violation`).MatchString(s["meaning"]) && s["network"] != "visa" && code != "100" {
					require.False(t, e.Verdict.Disclosable)
				}
			case word == "unknown":
				require.NotEmpty(t, decline.CapsAt(s["network"], failedAt), "no published limit: a careful default")
			default:
				most := -1
				if s["max_attempts"] != "" {
					n, err := strconv.Atoi(s["max_attempts"])
					require.NoError(t, err)
					most = n
				}
				days, _ := strconv.Atoi(s["window_days"])
				requireCap(t, s["network"], most, time.Duration(days)*24*time.Hour)
			}
		})
	}
}

func requireCap(t *testing.T, network string, most int, window time.Duration) {
	t.Helper()
	for _, c := range decline.Caps() {
		if c.Network == network && c.Max == most && c.Window == window {
			require.NotEmpty(t, c.Sources)
			require.NotEmpty(t, c.Edition)
			return
		}
	}
	require.Failf(t, "no such limit", "%s %d in %s", network, most, window)
}

func TestRetryLimitsAgreeWithTheSources(t *testing.T) {
	t.Parallel()
	windows := map[string]time.Duration{"per charge": 0, "2 weeks": 14 * 24 * time.Hour, "24 hours": 24 * time.Hour, "": 0, "ever, same card at the merchant": 0}
	for _, s := range sourceTable(t, "retry_limits.csv") {
		t.Run(s["network"]+"/"+s["rule"]+"/"+s["limit"], func(t *testing.T) {
			most, err := strconv.Atoi(s["limit"])
			window, ok := windows[s["window"]]
			if strings.HasPrefix(s["window"], "30 days") {
				window, ok = 30*24*time.Hour, true
			}
			switch {
			case err != nil && strings.HasPrefix(s["limit"], "9 codes"):
				most = 0
			case strings.Contains(s["rule"], "fee"):
				most, window, ok = 0, 0, true
			case s["rule"] == "card_decline_rate_limit_exceeded wait":
				most = 0
			default:
				require.NoError(t, err)
			}
			require.True(t, ok, "a window that the mapping lacks: %s", s["window"])
			requireCap(t, s["network"], most, window)
		})
	}
}

func TestSmartRetryOpinionsAgreeWithTheSources(t *testing.T) {
	t.Parallel()
	policy := map[string]func(e decline.Entry) bool{
		"never": func(e decline.Entry) bool { return e.Verdict.Retry.Verdict == decline.RetryNever },
		"fix_integration": func(e decline.Entry) bool {
			return e.Verdict.Retry.Verdict == decline.RetryNever && e.Verdict.Category == decline.IntegrationError
		},
		"retry_same_request":      func(e decline.Entry) bool { return e.Verdict.Retry.Verdict == decline.RetryNow },
		"step_up_on_session":      func(e decline.Entry) bool { return e.Verdict.Retry.Verdict == decline.AfterCustomerAction },
		"after_customer_fix":      func(e decline.Entry) bool { return e.Verdict.Retry.Verdict == decline.AfterCustomerAction },
		"offer_other_method":      func(e decline.Entry) bool { return e.Verdict.NextStep == decline.UseAnotherMethod && e.MaxRetries == 1 },
		"one_retry_then_customer": func(e decline.Entry) bool { return e.Verdict.NextStep == decline.ContactIssuer && e.MaxRetries == 1 },
		"wait_24h": func(e decline.Entry) bool {
			return e.Verdict.Retry.Verdict == decline.RetryLater && e.Verdict.Retry.Wait == 24*time.Hour
		},
		"spaced_retry":    func(e decline.Entry) bool { return e.Verdict.Retry.Verdict == decline.RetryLater },
		"by_decline_code": func(e decline.Entry) bool { return e.MaxRetries == 1 && e.Verdict.Public == generic() },
	}
	n := 0
	for _, s := range sourceTable(t, "smart_retry.csv") {
		if s["section"] == "category" {
			continue
		}
		t.Run(s["code"], func(t *testing.T) {
			n++
			entries, _ := decline.Explain(s["code"], decline.Stripe, "")
			require.NotEmpty(t, entries)
			for _, e := range entries {
				require.Contains(t, e.Verdict.Opinions, decline.Opinion{Source: "hyperswitch", Verdict: s["source_verdict"]})
				if s["recovery_category"] != "none" {
					require.Contains(t, e.Verdict.Opinions, decline.Opinion{Source: "hyperswitch_recovery", Verdict: s["recovery_category"]})
				}
				require.Contains(t, policy, s["recommended_policy"])
				require.True(t, policy[s["recommended_policy"]](e), "%s: %+v", s["recommended_policy"], e.Verdict)
			}
		})
	}
	require.Equal(t, 27, n)
}
