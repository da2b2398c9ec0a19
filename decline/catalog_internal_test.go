package decline

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestABadCatalogLineIsRefused(t *testing.T) {
	t.Parallel()
	good := func() []string {
		l := make([]string, columns)
		for c, v := range map[int]string{
			colCode: "x", colType: "issuer_declined", colCategory: "card_state", colSeverity: "hard", colDisclose: "yes",
			colNextStep: "none", colRetry: "never", colMeaning: "m", colSource: "s", colEdition: "e",
		} {
			l[c] = v
		}
		return l
	}
	_, err := parseRow(StripeDeclineCodes, good(), nil)
	require.NoError(t, err)
	for name, bad := range map[string]struct {
		column int
		value  string
		says   string
	}{
		"no meaning":         {colMeaning, "", "meaning"},
		"no source":          {colSource, "", "source"},
		"no edition":         {colEdition, "", "edition"},
		"a category unknown": {colCategory, "x", "category"},
		"a severity unknown": {colSeverity, "x", "severity"},
		"a type unknown":     {colType, "x", "type"},
		"a step unknown":     {colNextStep, "x", "next step"},
		"a field unknown":    {colField, "x", "field"},
		"a retry unknown":    {colRetry, "x", "retry"},
		"a wait unknown":     {colWait, "x", "wait"},
		"a count unknown":    {colMax, "x", "retries"},
		"a mark unknown":     {colSpecific, "x", "specific"},
		"disclosure unsaid":  {colDisclose, "", "disclosed"},
		"disclosure unknown": {colDisclose, "x", "disclose"},
		"like nothing":       {colLike, "x", "no table"},
	} {
		line := good()
		line[bad.column] = bad.value
		_, err := parseRow(StripeDeclineCodes, line, nil)
		require.ErrorContains(t, err, bad.says, name)
	}
}

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		if _, err := loadIndex(); err != nil {
			b.Fatal(err)
		}
	}
}
