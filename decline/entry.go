package decline

import (
	"cmp"
	"slices"
	"strings"
	"sync"
)

// Entry is one line of the catalog with the verdict that its code alone gets.
type Entry struct {
	Code    string
	Table   Table
	Source  Source // whose events carry the code
	Network string // lower case; empty unless the code is a network's
	Meaning string // one sentence without a full stop, for staff
	Why     string // what decided where sources are silent or disagree; may be empty
	Verdict Verdict
	// Informs is false for values that say nothing of a failure by themselves, e.g. risk_level normal; their Verdict is
	// that of an unknown reason.
	Informs bool
	// Secret marks a fraud signal or a block: it silences the whole attempt, whatever else is known.
	Secret bool
	// MaxRetries is how many retries the code itself allows; 0: no bound of its own.
	MaxRetries int
	Sources    string // where the row's facts were read
	Edition    string // the edition or date of Sources

	row *row
}

// All lists the whole catalog in the order of the reference: by table, then network, then code. The slice is new, the
// opinions inside are shared.
func All() []Entry { return slices.Clone(allEntries()) }

var allEntries = sync.OnceValue(func() []Entry {
	out := make([]Entry, 0, len(known.rows))
	for _, r := range known.rows {
		out = append(out, r.entry())
	}
	slices.SortStableFunc(out, func(a, b Entry) int {
		return cmp.Or(
			cmp.Compare(slices.Index(tables, a.Table), slices.Index(tables, b.Table)),
			cmp.Compare(a.Network, b.Network), cmp.Compare(a.Code, b.Code),
		)
	})
	return out
})

func (r *row) entry() Entry {
	v := Rules{}.Classify(r.facts())
	return Entry{
		Code: r.code, Table: r.table, Source: r.table.source(), Network: r.network, Meaning: r.meaning, Why: r.why,
		Verdict: v, Informs: r.rank > noRank || r.retry != "" || r.disclose != unsaid, Secret: r.disclose == secret, MaxRetries: r.max,
		Sources: r.source, Edition: r.edition, row: r,
	}
}

// facts are the least facts that hold the row's code where it belongs.
func (r *row) facts() Facts {
	f := Facts{Source: r.table.source(), AttemptsUsed: 1, Network: r.network}
	switch r.table {
	case StripeDeclineCodes:
		f.DeclineCode, f.MethodType = r.code, "card"
	case StripeLocalDeclineCodes:
		f.DeclineCode, f.MethodType = r.code, "local"
	case StripeErrorCodes:
		f.ErrorCode = r.code
	case StripeErrorTypes:
		f.ProviderType = r.code
	case StripeOutcomeTypes:
		f.OutcomeType = r.code
	case StripeOutcomeReasons:
		f.OutcomeReason = r.code
	case StripeNetworkStatuses:
		f.NetworkStatus = r.code
	case StripeRiskLevels:
		f.RiskLevel = r.code
	case StripeAdviceCodes:
		f.AdviceCode = r.code
	case NetworkAdviceCodes:
		f.NetworkAdviceCode = r.code
	case NetworkDeclineCodes:
		f.NetworkDeclineCode = r.code
	case NetworkDeclineCategories:
		f.NetworkDeclineCode = r.example()
	case NetworkCombinations:
		f.NetworkDeclineCode, f.NetworkAdviceCode, _ = strings.Cut(r.code, "+")
	case FrameDeclineCodes:
		f.FailureCode = r.code
	case FrameStatuses:
		f.Status = r.code
	}
	return f
}

// example finds a decline code that shows what a network's category means for a retry.
func (r *row) example() string {
	for _, other := range known.rows {
		if other.table == NetworkDeclineCodes && other.network == r.network && other.group == "category_"+r.code && other.retry == r.retry {
			return other.code
		}
	}
	return ""
}

// NetworkGroup is the network's own class of a decline code: category_1 to category_4 for Visa, reversible or
// irreversible for Elo and, by Brazil's ABECS rules, Amex. It is empty for an unknown code or network.
func NetworkGroup(network, code string) string {
	if r := known.networkDecline[key{networkName(network), code}]; r != nil {
		return r.group
	}
	return ""
}

// explainFilter narrows Explain.
type explainFilter struct {
	source  Source
	network string
}

// Explain finds every entry of a code. Case does not matter, spaces and dashes count as underscores, partner_ forms
// find the plain code, and network:code (visa:51) or mac:code names a network's own. Only the codes that events of one
// source carry are looked at, or those of one card network; empty: all. When nothing fits, suggestions hold up to five
// codes that are spelled alike, the nearest first.
func Explain(code string, source Source, network string) (entries []Entry, suggestions []string) {
	f := explainFilter{source, networkName(strings.ToLower(strings.TrimSpace(network)))}
	q := tidy(code)
	if net, rest, ok := strings.Cut(q, ":"); ok {
		if q = rest; net == "mac" {
			net = "mastercard"
		}
		f.network = networkName(net)
	}
	for _, want := range []string{q, strings.TrimPrefix(q, "partner_")} {
		for _, e := range allEntries() {
			if f.keeps(e) && strings.EqualFold(e.Code, want) {
				entries = append(entries, e)
			}
		}
		if len(entries) > 0 {
			return entries, nil
		}
	}
	return nil, near(q, f)
}

func (f explainFilter) keeps(e Entry) bool {
	return (f.source == "" || f.source == e.Source) && (f.network == "" || f.network == e.Network)
}

func tidy(code string) string {
	return strings.NewReplacer(" ", "_", "-", "_").Replace(strings.ToLower(strings.TrimSpace(code)))
}

// near lists codes within a third of the length in edits, at least 2, or that contain the query.
func near(q string, f explainFilter) []string {
	type hit struct {
		code string
		off  int
	}
	q = q[:min(len(q), 100)]
	if q == "" {
		return nil
	}
	var hits []hit
	seen := map[string]bool{}
	for _, e := range allEntries() {
		if seen[e.Code] || !f.keeps(e) {
			continue
		}
		seen[e.Code] = true
		code := strings.ToLower(e.Code)
		d := distance(q, code)
		switch {
		case d <= max(2, len(q)/3) && d < len(code):
			hits = append(hits, hit{e.Code, d})
		case len(q) >= 4 && strings.Contains(code, q):
			hits = append(hits, hit{e.Code, 50 + len(code) - len(q)})
		}
	}
	slices.SortFunc(hits, func(a, b hit) int { return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.code, b.code)) })
	var out []string
	for _, h := range hits[:min(len(hits), 5)] {
		out = append(out, h.code)
	}
	return out
}

// distance counts the bytes to insert, delete or replace to turn one word into the other.
func distance(a, b string) int {
	old, cur := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range old {
		old[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(old[j]+1, cur[j-1]+1, old[j-1]+cost)
		}
		old, cur = cur, old
	}
	return old[len(b)]
}
