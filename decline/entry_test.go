package decline_test

import (
	"bytes"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/decline"
)

var update = flag.Bool("update", false, "write CATALOG.md anew")

func TestTheReferenceIsInStep(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, decline.WriteCatalog(&b))
	if *update {
		require.NoError(t, os.WriteFile("CATALOG.md", b.Bytes(), 0o644))
	}
	have, err := os.ReadFile("CATALOG.md")
	require.NoError(t, err)
	require.Equal(t, string(have), b.String(), "CATALOG.md is behind the data: go generate ./decline")
	for _, e := range decline.All() {
		require.Contains(t, b.String(), "`"+e.Code+"` | ")
	}
}

func TestEveryEntryIsWhole(t *testing.T) {
	t.Parallel()
	all := decline.All()
	require.Greater(t, len(all), 490)
	for _, e := range all {
		require.NotEmpty(t, e.Meaning, e.Code)
		require.NotEmpty(t, e.Sources, e.Code)
		require.NotEmpty(t, e.Edition, e.Code)
		require.NotContains(t, e.Meaning+e.Why+e.Verdict.MerchantNextStep, "  ", e.Code)
		require.NotContains(t, e.Verdict.MerchantNextStep, "..", e.Code)
		if v := e.Verdict.Retry.Verdict; v == decline.RetryNever || v == decline.AfterCustomerAction {
			require.Zero(t, e.MaxRetries, "%s %s: no retry is not one at most", e.Network, e.Code)
		}
		if e.Table == decline.StripeDeclineCodes || e.Table == decline.FrameDeclineCodes || e.Table == decline.StripeErrorCodes {
			require.Equal(t, e.Code, e.Verdict.Code)
			require.True(t, e.Informs)
			require.Empty(t, e.Verdict.Unrecognized)
		}
	}
	all[0].Code = "changed"
	require.NotEqual(t, "changed", decline.All()[0].Code)
}

func TestExplainFindsACodeHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		query   string
		source  decline.Source
		network string
		want    []string // table and network
	}{
		"plain":                    {"do_not_honor", "", "", []string{"stripe_decline_codes", "frame_decline_codes"}},
		"spaces and capitals":      {" Do not HONOR ", "", "", []string{"stripe_decline_codes", "frame_decline_codes"}},
		"dashes":                   {"lost-card", "", "", []string{"stripe_decline_codes", "stripe_error_codes", "frame_decline_codes"}},
		"one source":               {"do_not_honor", decline.Frame, "", []string{"frame_decline_codes"}},
		"a number of all networks": {"82", "", "", []string{"network_decline_codes elo", "network_decline_codes mastercard", "network_decline_codes visa"}},
		"a number of one network":  {"82", "", "Visa", []string{"network_decline_codes visa"}},
		"a network's letters":      {"r0", "", "", []string{"network_decline_codes visa"}},
		"network and number":       {"visa:51", "", "", []string{"network_decline_codes visa"}},
		"merchant advice code":     {"MAC:21", "", "", []string{"network_advice_codes mastercard"}},
		"american express":         {"116", "", "American Express", []string{"network_decline_codes amex"}},
		"a partner form":           {"partner_expired_card", "", "", []string{"stripe_outcome_reasons"}},
		"a partner form unlisted":  {"partner_stolen_card", "", "", []string{"stripe_decline_codes", "frame_decline_codes"}},
		"a block reason":           {"highest_risk_level", "", "", []string{"stripe_outcome_reasons"}},
		"an advice code":           {"confirm_card_data", "", "", []string{"stripe_advice_codes"}},
		"a pair":                   {"79+03", "", "", []string{"network_combinations mastercard"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entries, suggestions := decline.Explain(tc.query, tc.source, tc.network)
			require.Empty(t, suggestions)
			var got []string
			for _, e := range entries {
				where := string(e.Table)
				if e.Network != "" {
					where += " " + e.Network
				}
				got = append(got, where)
			}
			require.Equal(t, tc.want, got)
		})
	}
}

func TestExplainSuggestsNearMisses(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"insuficient_funds": "insufficient_funds",
		"do_not_honour":     "do_not_honor",
		"stolen_crad":       "stolen_card",
		"expierd card":      "expired_card",
		"velocity":          "card_velocity_exceeded",
	}
	for query, want := range tests {
		entries, suggestions := decline.Explain(query, "", "")
		require.Empty(t, entries, query)
		require.NotEmpty(t, suggestions, query)
		require.Equal(t, want, suggestions[0], query)
		require.LessOrEqual(t, len(suggestions), 5)
	}
	for _, query := range []string{"", "zzzzzzzzzzzzzzzzzzzz", ":"} {
		entries, suggestions := decline.Explain(query, "", "")
		require.Empty(t, entries, query)
		require.Empty(t, suggestions, query)
	}
}

func TestCapsAreDated(t *testing.T) {
	t.Parallel()
	most := func(network, scope string, at time.Time) (out []int) {
		for _, c := range decline.CapsAt(network, at) {
			if c.Scope == scope {
				out = append(out, c.Max)
			}
		}
		return out
	}
	require.Equal(t, []int{20, 20, 20}, most("visa", "card_amount", time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)))
	require.Equal(t, []int{15}, most("visa", "card_amount", time.Date(2025, 5, 24, 0, 0, 0, 0, time.UTC)))
	require.Equal(t, []int{10, 0}, most("Mastercard", "card", time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)))
	require.Equal(t, []int{20, 0}, most("mastercard", "card", time.Date(2022, 9, 30, 0, 0, 0, 0, time.UTC)))
	require.Empty(t, decline.CapsAt("no such network", failedAt))
	require.Equal(t, "category_1", decline.NetworkGroup("Visa", "R3"))
	require.Equal(t, "irreversible", decline.NetworkGroup("elo", "AB"))
	require.Empty(t, decline.NetworkGroup("visa", "no such code"))
}
