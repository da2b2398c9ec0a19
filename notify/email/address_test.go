package email

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPlainMailboxesAreTaken(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"jane@example.com":             "jane@example.com",
		"Jane.Doe+shop@Example.COM":    "Jane.Doe+shop@example.com",
		"o'brien_x@mail.example.co.uk": "o'brien_x@mail.example.co.uk",
		"a=b#c&d*e/f?g^h{i}~@x.io":     "a=b#c&d*e/f?g^h{i}~@x.io",
		"kunde@bücher.example":         "kunde@xn--bcher-kva.example",
		"kunde@BÜCHER.example":         "kunde@xn--bcher-kva.example",
		"x@例え.テスト":                     "x@xn--r8jz45g.xn--zckzah",
		"1@1.example":                  "1@1.example",
		strings.Repeat("a", 64) + "@" + strings.Repeat("b", 60) + ".example": strings.Repeat("a", 64) + "@" + strings.Repeat("b", 60) + ".example",
	} {
		got, ok := ValidAddress(given)
		require.True(t, ok, given)
		require.Equal(t, want, got)
	}
}

func TestEverythingElseIsRefused(t *testing.T) {
	t.Parallel()
	for _, given := range []string{
		"", "@", "a@", "@b.example", "a", "a@b", "a@localhost", "a@.example", "a@b..example", "a@b.example.",
		"Jane <jane@example.com>", "<jane@example.com>", "jane@example.com (Jane)", "(x)jane@example.com",
		"group: jane@example.com;", "@relay.example:jane@example.com", "jane@example.com, joe@example.com",
		"jane@[127.0.0.1]", "jane@[IPv6:::1]", "jane@127.0.0.1", `"jane"@example.com`, `"a b"@example.com`, `ja\ne@example.com`,
		"jane@example.com\r\nBcc: joe@example.com", "jane\r\n@example.com", "jane@example.com\n", "jane@example.com\x00", " jane@example.com", "jane@exa mple.com",
		"-oX@example.com", "/etc/passwd@example.com", "|sh@example.com", "joe%example.org@example.com", "host!joe@example.com", "`id`@example.com", "$HOME@example.com",
		".jane@example.com", "jane.@example.com", "ja..ne@example.com", "a@b@example.com",
		"jané@example.com", "jane@-example.com", "jane@example-.com", "jane@exa_mple.com", "jane@example.123", "jane@xn--\u0000.example",
		"jane@\u202eexample.com", "jane@exam\u200bple.com\u200b\r\n", "jane@ex\uff20ample.com\n",
		strings.Repeat("a", 65) + "@example.com", "a@" + strings.Repeat("b", 64) + ".example",
		"a@" + strings.Repeat("bbbbbbbbb.", 26) + "example",
	} {
		got, ok := ValidAddress(given)
		require.False(t, ok, "%q", given)
		require.Empty(t, got)
	}
}

func TestAnAcceptedAddressIsOneEnvelopeWordAndStaysAccepted(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		local := rapid.StringOf(rapid.RuneFrom([]rune("ab.Z9+-_'/=\"<>:;,()\\@ \r\n%!|$`é"))).Draw(t, "local")
		domain := rapid.StringOf(rapid.RuneFrom([]rune("abé.-ÜZ9_[]:@ \r\n\u200b\u202e。"))).Draw(t, "domain")
		got, ok := ValidAddress(local + "@" + domain)
		if !ok {
			return
		}
		require.LessOrEqual(t, len(got), maxAddress)
		require.NotContains(t, got, "..")
		require.Equal(t, 1, strings.Count(got, "@"))
		require.Equal(t, -1, strings.IndexFunc(got, func(r rune) bool {
			return r <= ' ' || r > '~' || strings.ContainsRune("<>\"\\(),:;[]%!|$`", r)
		}))
		again, ok := ValidAddress(got)
		require.True(t, ok)
		require.Equal(t, got, again)
	})
}

func TestSpellingsOfOneMailboxCountAsOne(t *testing.T) {
	t.Parallel()
	for _, group := range [][]string{
		{"jane.doe@gmail.com", "JaneDoe@googlemail.com", "j.a.n.e.d.o.e+shop@GMAIL.com", " janedoe@gmail.com "},
		{"kunde@bücher.example", "Kunde+x@xn--bcher-kva.example"},
		{"jane@example.com", "JANE+1@example.com", "jane+1+2@Example.com"},
	} {
		for _, spelling := range group {
			require.Equal(t, NormalizeMailbox(group[0]), NormalizeMailbox(spelling), spelling)
		}
	}
	require.NotEqual(t, NormalizeMailbox("j.doe@example.com"), NormalizeMailbox("jdoe@example.com"), "only Gmail ignores dots")
	require.Equal(t, "+tag@example.com", NormalizeMailbox("+tag@example.com"))
	require.Equal(t, "not an address", NormalizeMailbox("Not an address"))
}
