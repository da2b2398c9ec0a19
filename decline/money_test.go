package decline_test

import (
	"bufio"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rebound/decline"
)

// TestMoneyEqualsICU compares, byte for byte, with what Node's Intl.NumberFormat wrote. No difference is allowed: the
// generator asks ICU for as many digits as Stripe's scale calls for, and says how.
func TestMoneyEqualsICU(t *testing.T) {
	t.Parallel()
	f, err := os.Open("testdata/money.tsv")
	require.NoError(t, err)
	defer f.Close()
	seen := map[string]int{}
	var wrong []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		cells := strings.Split(s.Text(), "\t")
		require.Len(t, cells, 4, s.Text())
		amount, err := strconv.ParseInt(cells[2], 10, 64)
		require.NoError(t, err)
		seen[cells[0]]++
		if got := decline.FormatMoney(amount, strings.ToLower(cells[1]), cells[0]); got != cells[3] {
			wrong = append(wrong, strconv.QuoteToASCII(s.Text())+" got "+strconv.QuoteToASCII(got))
		}
	}
	require.Empty(t, wrong[:min(len(wrong), 10)], "%d differences", len(wrong))
	for _, locale := range decline.Locales() {
		require.GreaterOrEqual(t, seen[locale], 20*10, "amounts of %s", locale)
	}
	require.Len(t, seen, len(decline.Locales()))
}

func TestMoneyHasStripesScale(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		amount           int64
		currency, locale string
		want             string
	}{
		{2000, "usd", "en", "$20.00"},
		{2000, "USD", "en", "$20.00"}, // Frame writes codes in upper case
		{500, "jpy", "en", "¥500"},
		{500, "isk", "en", "ISK\u00a05"}, // two decimals in the API, none for people
		{550, "isk", "en", "ISK\u00a05.50"},
		{500, "ugx", "en", "UGX\u00a05"},
		{500, "mga", "en", "MGA\u00a0500"}, // zero-decimal at Stripe, not in ISO 4217
		{123456, "huf", "en", "HUF\u00a01,234.56"},
		{123400, "huf", "hu", "1234\u00a0Ft"},
		{123400, "twd", "zh-TW", "$1,234.00"},
		{5120, "kwd", "en", "KWD\u00a05.120"},
		{12345678900, "inr", "hi", "₹12,34,56,789.00"},
		{123456, "eur", "es", "1234,56\u00a0€"},
		{1234567, "eur", "es", "12.345,67\u00a0€"},
		{123456, "eur", "pt-PT", "1234,56\u00a0€"},
		{123456, "brl", "pt-BR", "R$\u00a01.234,56"},
		{-5, "usd", "en", "-$0.05"},
		{0, "eur", "de", "0,00\u00a0€"},
		{math.MinInt64, "usd", "en", "-$92,233,720,368,547,758.08"},
		{math.MaxInt64, "jpy", "en", "¥9,223,372,036,854,775,807"},
		{1234, "zzz", "en", "ZZZ\u00a012.34"}, // unknown
		{1234, "usd", "tlh", "$12.34"},
		{1234, "", "en", "¤12.34"},
		{1234, "<b>", "en", "¤12.34"},
		{1234, "ſsd", "en", "¤12.34"}, // upper-cases to three ASCII letters
		{1234, "dollars", "en", "¤12.34"},
	} {
		require.Equal(t, c.want, decline.FormatMoney(c.amount, c.currency, c.locale), "%d %s %s", c.amount, c.currency, c.locale)
	}
}

func TestMoneyIsKnownByAnAmountAndACode(t *testing.T) {
	t.Parallel()
	for currency, known := range map[string]bool{"usd": true, "KWD": true, "zzz": true, "": false, "xxx": false, "usdc": false, "us": false, "u$d": false, "ſsd": false} {
		require.Equal(t, known, decline.MoneyKnown(1, currency), currency)
		require.False(t, decline.MoneyKnown(0, currency))
	}
}

func TestMoneyNeverRounds(t *testing.T) {
	t.Parallel()
	for _, locale := range decline.Locales() {
		for _, currency := range []string{"usd", "jpy", "isk", "ugx", "huf", "cop", "kwd", "lak", "mga", "zzz"} {
			seen := map[string]int64{}
			for amount := int64(-20); amount <= 420; amount++ {
				text := decline.FormatMoney(amount, currency, locale)
				other, ok := seen[text]
				if ok {
					require.Failf(t, "rounded", "%d and %d %s are both %s in %s", other, amount, currency, text, locale)
				}
				seen[text] = amount
			}
		}
	}
}
