package webhook

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStringsOfABodyStayAsTheyWereWhileMoreAreRead(t *testing.T) {
	t.Parallel()
	var kept, want []string
	for body := range 3 { // readers are reused
		var texts []string
		for i := range 40 {
			texts = append(texts, fmt.Sprint(body, ":", strings.Repeat(string(rune('a'+i%26)), i*7), `\u00e9`))
		}
		r := newReader([]byte(`["` + strings.Join(texts, `","`) + `"]`))
		require.True(t, r.list("texts", func(i int) {
			s, ok := r.rawText("text")
			require.True(t, ok)
			kept, want = append(kept, s), append(want, strings.ReplaceAll(texts[i], `\u00e9`, "é"))
		}))
		require.NoError(t, r.end())
		r.release()
	}
	require.Equal(t, want, kept)
}
