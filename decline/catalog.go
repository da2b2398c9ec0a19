package decline

import (
	"embed"
	"encoding/csv"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:generate go test -run TestTheReferenceIsInStep -update .

// The catalog is data: one CSV file per table, one line per code, and every line carries its source and edition. An
// empty cell takes its value from the row named in "like". A new code is a new line and no code.
//
// The columns that need a word: specific is empty, generic (no reason was given) or envelope (wraps another code);
// disclose is yes, no (of no use to a customer), never (a fraud signal or block: silences the whole attempt) or mute
// (no, and the customer must not be written to); retry, wait and max are the advice for the same payment method; rule
// is the name under which the row limits a retry; group is the network's own class; why says what was decided where
// the sources are silent or disagree. A row without a category says nothing of the reason.
//
//go:embed catalog/*.csv
var catalogFiles embed.FS

// Table names one table of the catalog: which fact its codes are values of.
type Table string

// The tables of the catalog.
const (
	StripeDeclineCodes       Table = "stripe_decline_codes"
	StripeLocalDeclineCodes  Table = "stripe_local_decline_codes"
	StripeErrorCodes         Table = "stripe_error_codes"
	StripeErrorTypes         Table = "stripe_error_types"
	StripeOutcomeTypes       Table = "stripe_outcome_types"
	StripeOutcomeReasons     Table = "stripe_outcome_reasons"
	StripeNetworkStatuses    Table = "stripe_network_statuses"
	StripeRiskLevels         Table = "stripe_risk_levels"
	StripeAdviceCodes        Table = "stripe_advice_codes"
	NetworkAdviceCodes       Table = "network_advice_codes"
	NetworkDeclineCodes      Table = "network_decline_codes"
	NetworkDeclineCategories Table = "network_decline_categories"
	NetworkCombinations      Table = "network_combinations"
	FrameDeclineCodes        Table = "frame_decline_codes"
	FrameStatuses            Table = "frame_statuses"
)

// tables lists the tables in the order of the reference. A row's like is looked up in its own table first and then in
// this order, so the first two give the classes that the others lean on.
var tables = []Table{
	StripeDeclineCodes, StripeLocalDeclineCodes, StripeErrorCodes, StripeErrorTypes, StripeOutcomeReasons,
	StripeOutcomeTypes,
	StripeNetworkStatuses, StripeRiskLevels, StripeAdviceCodes, NetworkAdviceCodes, NetworkDeclineCodes,
	NetworkDeclineCategories, NetworkCombinations, FrameDeclineCodes, FrameStatuses,
}

// source says whose events carry the codes of a table; a network's codes come through Stripe.
func (t Table) source() Source {
	if t == FrameDeclineCodes || t == FrameStatuses {
		return Frame
	}
	return Stripe
}

// speaksOfOthers tells whether a code of the table is another code in disguise: partner_expired_card is expired_card,
// and a network's 51 is insufficient_funds. The verdict then names that other code.
func (t Table) speaksOfOthers() bool {
	return t == StripeOutcomeReasons || t == NetworkDeclineCodes || t == StripeRiskLevels
}

// disclosure says whether a customer may learn a code.
type disclosure int8

const (
	unsaid disclosure = iota
	disclose
	withhold // of no use to a customer; does not silence another code
	secret   // a fraud signal or a block: silences the whole attempt, whatever else is known
)

// rank orders the codes of one attempt from vague to telling. The most telling one decides; equal ones are decided
// by the fixed order of the facts, see Classify.
type rank int8

const (
	noRank   rank = iota
	envelope      // only wraps another code: card_declined
	generic       // the reason was not given: generic_decline
	specific
	signal // a block or fraud signal that is not a code of its own
	fraud  // a secret code
)

// row is one line of the catalog.
type row struct {
	table         Table
	network, code string

	names     string // the code that a verdict from this row names
	rank      rank
	typ       Type
	category  Category
	severity  Severity
	disclose  disclosure
	noContact bool // the customer must not be written to
	next      NextStep
	field     Field
	retry     RetryVerdict // empty: says nothing about a retry
	wait      time.Duration
	max       int    // retries the code itself allows; 0: no bound of its own
	rule      string // what Retry.LimitedBy names when this row decides
	group     string // the network's own class of retry, e.g. category_2 or irreversible

	meaning, merchant, why, source, edition string

	merchantPending string // merchant, and the amount may show as pending
	decidedBy       string // only for rows whose fact is named by a network
	opinions        [2][]Opinion
}

// key finds a network's code. Codes mean different things per network, so the network is part of it.
type key struct{ network, code string }

// index is the catalog arranged for Classify: one map per fact, each holding the fact's own table first and the others
// as a fallback, since codes turn up in each other's places.
type index struct {
	rows []*row
	caps []Cap
	// opinions keeps the lines of opinions.csv in their order, for the reference.
	opinions [][]string

	card, local, reason, errorCode, frame map[string]*row
	outcomeType, networkStatus, riskLevel map[string]*row
	frameStatus, advice, errorType        map[string]*row
	networkAdvice, networkDecline         map[key]*row
}

var known = mustIndex()

func mustIndex() *index {
	ix, err := loadIndex()
	if err != nil {
		panic("decline: reading the embedded catalog: " + err.Error())
	}
	return ix
}

const (
	colNetwork = iota
	colCode
	colLike
	colSpecific
	colType
	colCategory
	colSeverity
	colDisclose
	colNextStep
	colField
	colRetry
	colWait
	colMax
	colRule
	colGroup
	colMeaning
	colMerchant
	colWhy
	colSource
	colEdition
	columns
)

var header = []string{
	"network", "code", "like", "specific", "type", "category", "severity", "disclose", "next_step", "field", "retry",
	"wait", "max", "rule", "group", "meaning", "merchant", "why", "source", "edition",
}

func loadIndex() (*index, error) {
	raw := map[Table][][]string{}
	for _, t := range tables {
		lines, err := readCSV("catalog/"+string(t)+".csv", header)
		if err != nil {
			return nil, err
		}
		raw[t] = lines
	}
	ix := &index{}
	byTable := map[Table]map[key]*row{}
	for _, t := range tables {
		byTable[t] = map[key]*row{}
		for _, line := range raw[t] {
			r, err := parseRow(t, line, raw)
			if err != nil {
				return nil, fmt.Errorf("reading %s of %s: %w", line[colCode], t, err)
			}
			k := key{r.network, r.code}
			if byTable[t][k] != nil {
				return nil, fmt.Errorf("reading %s of %s: the code stands there twice", r.code, t)
			}
			byTable[t][k] = r
			ix.rows = append(ix.rows, r)
		}
	}
	var err error
	if ix.caps, err = loadCaps(); err != nil {
		return nil, err
	}
	var opinions map[string][]string
	if ix.opinions, opinions, err = loadOpinions(); err != nil {
		return nil, err
	}
	for _, r := range ix.rows {
		r.finish()
		for i, s := range []Source{Stripe, Frame} {
			r.opinions[i] = opinionsOf(r.names, s, opinions, byTable)
		}
	}
	ix.arrange(byTable)
	return ix, nil
}

func readCSV(name string, head []string) ([][]string, error) {
	f, err := catalogFiles.Open(name)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", name, err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.FieldsPerRecord = len(head)
	lines, err := r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(lines) == 0 || !slices.Equal(lines[0], head) {
		return nil, fmt.Errorf("reading %s: the header is not %s", name, strings.Join(head, ","))
	}
	return lines[1:], nil
}

// parseRow reads one line, with the cells it leaves empty taken from the row it is like.
func parseRow(t Table, line []string, raw map[Table][][]string) (*row, error) {
	line = slices.Clone(line)
	names := line[colCode]
	if like := line[colLike]; like != "" {
		model := findLike(t, like, raw)
		if model == nil {
			return nil, fmt.Errorf("like %s, which no table has", like)
		}
		for c := colSpecific; c <= colMerchant; c++ {
			if line[c] == "" && c != colMeaning && c != colGroup {
				line[c] = model[c]
			}
		}
		if t.speaksOfOthers() {
			names = like
		}
	}
	r := &row{
		table: t, network: line[colNetwork], code: line[colCode], names: names,
		typ: Type(line[colType]), category: Category(line[colCategory]), severity: Severity(line[colSeverity]),
		next: NextStep(line[colNextStep]), field: Field(line[colField]), retry: RetryVerdict(line[colRetry]),
		rule: line[colRule], group: line[colGroup], meaning: line[colMeaning], merchant: line[colMerchant], why: line[colWhy],
		source: line[colSource], edition: line[colEdition],
	}
	if r.code == "" || r.meaning == "" || r.source == "" || r.edition == "" {
		return nil, fmt.Errorf("a code needs a meaning, a source and an edition")
	}
	var err error
	if line[colWait] != "" {
		if r.wait, err = time.ParseDuration(line[colWait]); err != nil {
			return nil, fmt.Errorf("reading the wait: %w", err)
		}
	}
	if line[colMax] != "" {
		if r.max, err = strconv.Atoi(line[colMax]); err != nil {
			return nil, fmt.Errorf("reading the most retries: %w", err)
		}
	}
	if strictness(r.retry) > strictness(RetryLater) {
		r.max = 0 // of the row that it is like, whose verdict is looser
	}
	switch line[colDisclose] {
	case "":
	case "yes":
		r.disclose = disclose
	case "no":
		r.disclose = withhold
	case "never":
		r.disclose = secret
	case "mute":
		r.disclose, r.noContact = withhold, true
	default:
		return nil, fmt.Errorf("disclose is %q, not yes, no, never or mute", line[colDisclose])
	}
	return r, r.check(line[colSpecific])
}

func findLike(t Table, like string, raw map[Table][][]string) []string {
	for _, from := range append([]Table{t}, tables...) {
		if t == StripeOutcomeReasons && from == StripeDeclineCodes {
			continue // a partner_ reason speaks of a local method
		}
		for _, l := range raw[from] {
			if l[colCode] == like && l[colLike] == "" {
				return l
			}
		}
	}
	return nil
}

// check refuses words that the package does not know, and ranks the row.
func (r *row) check(spec string) error {
	if r.retry != "" && strictness(r.retry) < 0 {
		return fmt.Errorf("unknown retry verdict %q", r.retry)
	}
	if r.category == "" {
		r.rank = noRank
		return nil
	}
	switch {
	case !slices.Contains(categories, r.category):
		return fmt.Errorf("unknown category %q", r.category)
	case r.severity != Soft && r.severity != Hard:
		return fmt.Errorf("unknown severity %q", r.severity)
	case !slices.Contains(types, r.typ):
		return fmt.Errorf("unknown type %q", r.typ)
	case !slices.Contains(nextSteps, r.next):
		return fmt.Errorf("unknown next step %q", r.next)
	case !slices.Contains(fields, r.field):
		return fmt.Errorf("unknown field %q", r.field)
	case r.disclose == unsaid:
		return fmt.Errorf("a classed code needs to say whether it may be disclosed")
	}
	switch spec {
	case "":
		r.rank = specific
		if r.disclose == secret {
			r.rank = fraud
		}
	case "envelope":
		r.rank = envelope
	case "generic":
		r.rank = generic
	default:
		return fmt.Errorf("specific is %q, not envelope or generic", spec)
	}
	return nil
}

// finish derives what Classify hands out, so that it need not build anything per call.
func (r *row) finish() {
	if r.merchant == "" {
		r.merchant = merchantAdvice(r)
	}
	r.merchantPending = strings.TrimSuffix(r.merchant, ".") + "; expect the customer to see the amount as pending for some days."
	if r.table == NetworkDeclineCodes || r.table == NetworkAdviceCodes {
		r.decidedBy = strings.TrimSuffix(string(r.table), "s") + ":" + r.network
	}
}

// arrange fills the maps. The first row under a code stays: a fact's own table comes before its fallbacks.
func (ix *index) arrange(byTable map[Table]map[key]*row) {
	merge := func(order ...Table) map[string]*row {
		m := map[string]*row{}
		for _, t := range order {
			for k, r := range byTable[t] {
				if m[k.code] == nil && r.rank > noRank {
					m[k.code] = r
				}
			}
		}
		return m
	}
	plain := func(t Table) map[string]*row {
		m := map[string]*row{}
		for k, r := range byTable[t] {
			m[k.code] = r
		}
		return m
	}
	ix.card = merge(StripeDeclineCodes, StripeLocalDeclineCodes, StripeErrorCodes, StripeOutcomeReasons, FrameDeclineCodes)
	ix.local = merge(StripeLocalDeclineCodes, StripeDeclineCodes, StripeErrorCodes, StripeOutcomeReasons, FrameDeclineCodes)
	ix.errorCode = merge(StripeErrorCodes, StripeDeclineCodes, StripeLocalDeclineCodes, StripeOutcomeReasons, FrameDeclineCodes)
	ix.reason = merge(StripeOutcomeReasons, StripeDeclineCodes, StripeLocalDeclineCodes, StripeErrorCodes, FrameDeclineCodes)
	ix.frame = merge(FrameDeclineCodes, StripeDeclineCodes, StripeLocalDeclineCodes, StripeErrorCodes, StripeOutcomeReasons)
	ix.outcomeType = plain(StripeOutcomeTypes)
	ix.networkStatus = plain(StripeNetworkStatuses)
	ix.riskLevel = plain(StripeRiskLevels)
	ix.frameStatus = plain(FrameStatuses)
	ix.errorType = plain(StripeErrorTypes)
	ix.advice = plain(StripeAdviceCodes)
	ix.networkAdvice = byTable[NetworkAdviceCodes]
	ix.networkDecline = byTable[NetworkDeclineCodes]
}

var (
	types      = []Type{IssuerDeclined, Blocked, Invalid, AuthenticationFailed, ProviderDeclined, UnknownType}
	categories = []Category{
		AuthenticationRequired, InsufficientFunds, DataError, CardState, FraudRisk, IssuerUnknown, ProcessingError,
		TestMode, Mandate, BankAccount, CustomerAbandoned, Limit, IntegrationError,
	}
	nextSteps = []NextStep{
		Authenticate, CorrectDetails, UseAnotherMethod, ContactIssuer, TryAgain, TryAgainLater, RenewAuthorization,
		CheckExistingPayment, ResumeCheckout, NoCustomerAction,
	}
	fields = []Field{NoField, FieldNumber, FieldCVC, FieldExpiry, FieldPostalCode, FieldName, FieldAmount}
)
