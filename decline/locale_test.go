package decline_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rebound/decline"
)

func TestMatchLocale(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		preferred []string
		want      string
	}{
		{nil, "en"},
		{[]string{""}, "en"},
		{[]string{"de"}, "de"},
		{[]string{"de-AT"}, "de"},
		{[]string{"DE_de"}, "de"},
		{[]string{"en-GB"}, "en"},
		{[]string{"fr-CA"}, "fr"},
		{[]string{"es-419"}, "es"},
		{[]string{"ar-EG"}, "ar"},

		{[]string{"zh"}, "zh-Hans"},
		{[]string{"zh-CN"}, "zh-Hans"},
		{[]string{"zh-SG"}, "zh-Hans"},
		{[]string{"zh-TW"}, "zh-Hant"},
		{[]string{"zh-HK"}, "zh-Hant"},
		{[]string{"zh-MO"}, "zh-Hant"},
		{[]string{"zh-Hant"}, "zh-Hant"},
		{[]string{"zh-hant-cn"}, "zh-Hant"},
		{[]string{"zh-Hans-TW"}, "zh-Hans"},
		{[]string{"cmn-TW"}, "zh-Hant"},
		{[]string{"yue"}, "zh-Hant"},
		{[]string{"yue-HK"}, "zh-Hant"},
		{[]string{"yue-Hans-CN"}, "zh-Hans"},

		{[]string{"pt"}, "pt"},
		{[]string{"pt-PT"}, "pt"},
		{[]string{"pt-AO"}, "pt"},
		{[]string{"pt-br"}, "pt-BR"},
		{[]string{"pt-Latn-BR"}, "pt-BR"},

		{[]string{"no"}, "nb"},
		{[]string{"nn-NO"}, "nb"},
		{[]string{"nb-NO"}, "nb"},
		{[]string{"iw"}, "he"},
		{[]string{"iw-IL"}, "he"},
		{[]string{"in-ID"}, "id"},
		{[]string{"de_CH.UTF-8"}, "de"},
		{[]string{"sv@euro"}, "sv"},
		{[]string{"de-DE-u-co-phonebk"}, "de"},
		{[]string{"ja-JP-x-lvariant-JP"}, "ja"},
		{[]string{"en-x-br"}, "en"},
		{[]string{"pt-x-br"}, "pt"}, // private use is not a region

		// Accept-Language
		{[]string{"fr-CH, fr;q=0.9, en;q=0.8, de;q=0.7, *;q=0.5"}, "fr"},
		{[]string{"en;q=0.5, fr;q=0.9"}, "fr"},
		{[]string{"en ; q = 0.5 , it ; q=0.9"}, "it"},
		{[]string{"de;q=0, nl"}, "nl"},
		{[]string{"de;q=0.000"}, "en"},
		{[]string{"tlh, sw;q=0.9, cs;q=0.1"}, "cs"},
		{[]string{"da, sv"}, "da"},
		{[]string{"de;q=x, sv;q=0.1"}, "sv"},
		{[]string{"de;q=NaN, sv;q=0.1"}, "sv"},
		{[]string{"de;q=2, sv;q=0.1"}, "sv"},
		{[]string{"de;q=-1, sv;q=0.1"}, "sv"},
		{[]string{"*"}, "en"},
		{[]string{",,;q=1,, ,fi"}, "fi"},

		// several preferences: the first that fits
		{[]string{"tlh", "", "pl-PL", "de"}, "pl"},
		{[]string{"en-US", "de"}, "en"},
		{[]string{"sr", "hr"}, "hr"},

		// garbage
		{[]string{"german"}, "en"},
		{[]string{"d"}, "en"},
		{[]string{"-de"}, "en"},
		{[]string{"de-"}, "en"},
		{[]string{"d\x00e"}, "en"},
		{[]string{"../de"}, "en"},
		{[]string{"🇩🇪"}, "en"},
		{[]string{"x-de"}, "en"},
		{[]string{"i-default"}, "en"},
		{[]string{"de-toolongsubtag"}, "en"},
		{[]string{strings.Repeat("a-", 400) + ",de"}, "en"}, // beyond the bytes that are read
		{append(slices.Repeat([]string{"tlh"}, 16), "de"), "en"},
	} {
		require.Equal(t, c.want, decline.MatchLocale(c.preferred...), "%q", c.preferred)
	}
}

func TestEverySupportedLocaleMatchesItself(t *testing.T) {
	t.Parallel()
	locales := decline.Locales()
	require.Equal(t, decline.DefaultLocale, locales[0])
	require.GreaterOrEqual(t, len(locales), 24)
	for _, want := range strings.Fields(`en de fr es it nl pt pt-BR da sv nb fi pl cs sk hu ro bg el hr tr uk ja ko
		zh-Hans zh-Hant ar he hi id th vi`) {
		require.Contains(t, locales, want)
	}
	for _, locale := range locales {
		require.Equal(t, locale, decline.MatchLocale(locale))
		require.Equal(t, locale, decline.MatchLocale(strings.ToLower(locale)))
		require.Equal(t, locale, decline.MatchLocale(strings.ToUpper(locale)))
	}
}

func FuzzMatchLocale(f *testing.F) {
	for _, seed := range []string{"en-GB,en;q=0.5", "zh-Hant-HK", "x;q=;q=1,,-", "de_DE.UTF-8@euro", "\xff\xfe"} {
		f.Add(seed, "pt-BR")
	}
	known := decline.Locales()
	f.Fuzz(func(t *testing.T, a, b string) {
		if got := decline.MatchLocale(a, b); !slices.Contains(known, got) {
			t.Fatalf("MatchLocale(%q, %q) = %q", a, b, got)
		}
		m := decline.Public{Code: a, NextStep: decline.NextStep(b)}.Message(a)
		if m.Text == "" || m.Code != a {
			t.Fatalf("Message = %+v", m)
		}
		if decline.FormatMoney(1, a, b) == "" {
			t.Fatalf("FormatMoney(1, %q, %q) is empty", a, b)
		}
	})
}
