package main

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/decline"
	"rebound/handler"
	"rebound/store"
)

// Silence on fraud: whatever a fraud filter says of an attempt, and wherever in its events it says it, a customer sees
// what a plain generic_decline of the same attempt would have shown, byte for byte. Three tests prove it end to end:
// a signal inside an event changes none but the verdict's own fields (silence_signals_test.go); with any of these
// fields changed, what is decided and when is the same (this file); and what the decision's rows make every channel
// say, in every language, is the same bytes (silence_channels_test.go). The signals come from the catalog.

// companion is what the attempt's events say of the decline besides the signal.
type companion struct {
	name                 string
	code, decline        string // error code, and decline code or outcome.reason
	advice               string
	macCode, networkCode string
	// presence marks a code that says where the customer was. Beside it a signal hides what is said, while when and where it
	// is said stays as for the same attempt without the signal.
	presence bool
}

var plainDecline = companion{name: "generic_decline", code: "card_declined", decline: "generic_decline"}

// companions would each be told to the customer if there were no signal, or shape what is told.
var companions = []companion{
	plainDecline,
	{name: "insufficient_funds", code: "card_declined", decline: "insufficient_funds", advice: "try_again_later", networkCode: "51"},
	{name: "incorrect_cvc", code: "incorrect_cvc", decline: "incorrect_cvc", advice: "confirm_card_data"},
	{name: "try_again_later", code: "card_declined", decline: "try_again_later", macCode: "24"},
	{name: "issuer_not_available", code: "processing_error", decline: "issuer_not_available"},
	{name: "authentication_required", code: "authentication_required", decline: "authentication_required", presence: true},
}

// elsewhere is the reason of other attempts at the payment, which is told; it is no companion, since two refusals of one
// second, method and code that no charge tells apart are one attempt.
var elsewhere = companion{name: "expired_card", code: "expired_card", decline: "expired_card", advice: "confirm_card_data"}

// say writes the companion into one fact, where the decoder would.
func (c companion) say(f *store.Fact, embedded bool) {
	quiet(f)
	if f.Source == string(decline.Frame) {
		if f.Object != "transfer" {
			f.FailureCode = c.decline
		}
		return
	}
	if stripeCharge(f) || embedded {
		f.FailureCode = c.code
		f.OutcomeType, f.OutcomeReason, f.NetworkStatus, f.RiskLevel = "issuer_declined", c.decline, "declined_by_network", "normal"
	}
	if f.MethodType == "sepa_debit" { // a debit's charge has no outcome
		f.FailureCode, f.OutcomeType, f.OutcomeReason, f.NetworkStatus, f.RiskLevel = c.decline, "", "", "", ""
	}
	if stripeIntent(f) {
		f.ErrorCode, f.DeclineCode, f.ErrorType = c.code, c.decline, "card_error"
	}
	f.AdviceCode, f.NetworkAdviceCode, f.NetworkDeclineCode = c.advice, c.macCode, c.networkCode
}

// quiet empties the fields that a verdict rests on: all that a signal can change, and the words that staff read.
func quiet(f *store.Fact) {
	f.FailureCode, f.ErrorCode, f.DeclineCode, f.ErrorType = "", "", "", ""
	f.OutcomeType, f.OutcomeReason, f.NetworkStatus, f.RiskLevel, f.StripeReport = "", "", "", "", ""
	f.AdviceCode, f.NetworkAdviceCode, f.NetworkDeclineCode = "", "", ""
	f.ErrorMessage, f.ErrorParam, f.ErrorDocURL, f.ErrorMethodType, f.ErrorLogURL = "", "", "", "", ""
	if f.Source == string(decline.Frame) {
		f.Status = "failed"
	}
}

// arrangement is one state of what has arrived of an attempt: some of its facts, in an order, and what came besides.
type arrangement struct {
	name  string
	uses  []int // indexes of the attempt's facts, in order of arrival
	build func([]store.Fact) []store.Fact
}

// received gives the facts of uses their times of receipt, two seconds apart.
func received(facts []store.Fact, uses []int, late time.Duration) []store.Fact {
	out := make([]store.Fact, 0, len(uses)+2)
	for i, at := range uses {
		f := facts[at]
		f.ReceivedAt = time.Unix(facts[0].Created, 0).UTC().Add(late + time.Duration(1+2*i)*time.Second)
		out = append(out, f)
	}
	return out
}

func arrangements(sc scene) []arrangement {
	var out []arrangement
	seen := map[string]bool{}
	all := make([]int, len(sc.facts))
	for i := range all {
		all[i] = i
	}
	arrived := func(uses []int) func([]store.Fact) []store.Fact {
		return func(facts []store.Fact) []store.Fact { return received(facts, uses, sc.late) }
	}
	orders := permutations(len(sc.facts))
	if !sc.thorough {
		back := slices.Clone(all)
		slices.Reverse(back)
		orders = [][]int{all, back}
	}
	for _, order := range orders {
		for n := range order {
			uses := slices.Clone(order[:n+1])
			name := fmt.Sprint("arrived ", uses)
			if n+1 < len(order) && !slices.IsSorted(uses) {
				continue // the same are there as in another order; who was first matters when all are
			}
			if !seen[name] {
				seen[name] = true
				out = append(out, arrangement{name, uses, arrived(uses)})
			}
		}
	}
	with := func(name string, change func([]store.Fact) []store.Fact) {
		out = append(out, arrangement{name, all, func(facts []store.Fact) []store.Fact { return change(arrived(all)(facts)) }})
	}
	for _, then := range sc.afterwards() {
		with("and then "+then.EventType, func(facts []store.Fact) []store.Fact { return append(facts, then) })
	}
	if sc.facts[0].PaymentIntent == "" {
		return out // another charge would be another payment
	}
	with("after a disclosed one", func(facts []store.Fact) []store.Fact { return append(facts, another(sc, -3600)...) })
	with("before a disclosed one", func(facts []store.Fact) []store.Fact { return append(facts, another(sc, 3600)...) })
	if len(sc.facts) == 1 && stripeIntent(&sc.facts[0]) {
		// No charge tells the two apart, and their events are of one second.
		with("in one second with a disclosed one", func(facts []store.Fact) []store.Fact { return append(facts, another(sc, 0)...) })
	}
	return out
}

// another is a second attempt at the payment, some seconds away, whose reason may be told.
func another(sc scene, seconds int64) []store.Fact {
	facts := slices.Clone(sc.facts)
	for i := range facts {
		f := &facts[i]
		elsewhere.say(f, embedded(f))
		f.EventID += "_other"
		for _, id := range []*string{&f.Charge, &f.LatestCharge} {
			if *id != "" {
				*id += "other"
			}
		}
		f.Created += seconds
		f.ReceivedAt = time.Unix(f.Created, 0).UTC().Add(sc.late + 3*time.Second)
	}
	return facts
}

// sight is all that a customer can come to see of a payment, and when: the rows that the channels read, without ids.
type sight struct {
	Payment  store.Payment
	Attempts []attemptSight
	Notices  [][]store.Notification // by policy
}

type attemptSight struct {
	Code, NextStep, Field  string
	RetrySameMethod        bool
	AwaitsCharge           bool
	Presence, Locale       string
	Evidence               string
	OccurredAt, ReceivedAt time.Time
	Used                   int64
	Customer, Invoice      string
	Amount                 int64
	Currency               string
}

var (
	notificationFake = func(_ store.PaymentKey, channel, template, scope string) string {
		return "nt_" + channel + template + scope
	}
	attemptFake = func(prefix string, _ store.PaymentKey, key string) string { return prefix + key }
)

// policies are settings under which different rows are due.
func policies(t *testing.T, livemode bool) []handler.Policy {
	t.Helper()
	base := handler.Policy{
		Livemode: livemode, Hold: time.Minute, HoldWeak: 30 * time.Minute, MaxAge: 24 * time.Hour, SMTPConfigured: true,
		MessageIDDomain: "shop.example", NotificationID: notificationFake, AttemptID: attemptFake,
	}
	other, strict, loose := base, base, base
	other.Livemode = !livemode
	strict.UnknownToInbox, strict.SMTPConfigured = true, false
	loose.MailsInvoices, loose.Profiles = true, map[string]bool{}
	for _, sc := range scenes(t) {
		loose.Profiles[sc.facts[0].Account] = true
	}
	return []handler.Policy{base, other, strict, loose}
}

// rulebook has the merchant's own verdicts on secret codes beside the default ones: they may not be told either.
func rulebook(t *testing.T) []decline.Rules {
	t.Helper()
	var members []string
	for _, e := range decline.All() {
		if e.Secret && e.Table == decline.StripeDeclineCodes {
			members = append(members, fmt.Sprintf(`%q:{"next_step":"correct_details","severity":"soft"}`, e.Code))
		}
	}
	own, err := decline.LoadOverrides(strings.NewReader("{" + strings.Join(members, ",") + "}"))
	require.NoError(t, err)
	return []decline.Rules{{}, {MaxRetriesPerCharge: 1, Overrides: own}}
}

func look(facts []store.Fact, rules decline.Rules, policies []handler.Policy) sight {
	d := handler.Derive(facts[0].PaymentKey, facts, nil, rules)
	s := sight{Payment: d.Payment}
	for _, a := range d.Attempts {
		s.Attempts = append(s.Attempts, attemptSight{
			Code: a.PublicCode, NextStep: a.PublicNextStep, Field: a.PublicField, RetrySameMethod: a.PublicRetry,
			AwaitsCharge: a.AwaitsCharge, Presence: a.Presence, Evidence: strings.Join(a.Evidence, " "), Locale: a.Locale,
			OccurredAt: a.OccurredAt, ReceivedAt: a.ReceivedAt, Used: a.AttemptsUsed, Customer: a.Customer, Invoice: a.Invoice,
			Amount: a.Amount, Currency: a.Currency,
		})
	}
	// The stored number tells which is the newest; the order of the rows does not count.
	slices.SortStableFunc(s.Attempts, func(a, b attemptSight) int { return int(a.Used - b.Used) })
	now := time.Unix(facts[0].Created, 0).UTC().Add(5 * time.Second)
	for _, p := range policies {
		p.Rules = rules
		due := p.Decide(d, now)
		for i := range due {
			due[i].ID, due[i].FailureID, due[i].MessageID = "", "", ""
		}
		s.Notices = append(s.Notices, due)
	}
	return s
}

// mostShown is how many differences are printed; all are counted.
const mostShown = 5

func TestAFraudSignalDecidesNothingThatAGenericDeclineWouldNot(t *testing.T) {
	t.Parallel()
	var compared atomic.Int64
	all := clues(t)
	books := rulebook(t)
	t.Run("of", func(t *testing.T) {
		for _, sc := range scenes(t) {
			rules := policies(t, sc.facts[0].Livemode)
			t.Run(sc.name, func(t *testing.T) {
				t.Parallel()
				p := proof{scene: sc, books: books, policies: rules, arrangements: arrangements(sc), plain: map[string][]sight{}}
				for _, c := range all {
					p.examine(c)
				}
				p.canFail(t)
				compared.Add(int64(p.compared))
				require.Zerof(t, p.differ, "of %d comparisons; the first:\n%s", p.compared, strings.Join(p.shown, "\n"))
			})
		}
	})
	t.Logf("%d signals and places, %d comparisons", len(all), compared.Load())
	require.Greater(t, compared.Load(), int64(10_000))
}

// proof compares one scene's attempts.
type proof struct {
	scene            scene
	books            []decline.Rules
	policies         []handler.Policy
	arrangements     []arrangement
	plain            map[string][]sight // by network: what must be seen, by book and arrangement
	compared, differ int
	shown            []string
}

// told is the scene with a companion, on a card of a network ("" leaves the card as it is).
func (p *proof) told(c companion, network string) []store.Fact {
	facts := slices.Clone(p.scene.facts)
	for i := range facts {
		f := &facts[i]
		c.say(f, embedded(f))
		if network != "" {
			f.Network, f.Brand = network, network
		}
	}
	return facts
}

func (p *proof) sights(facts []store.Fact) []sight {
	var out []sight
	for _, rules := range p.books {
		for _, a := range p.arrangements {
			out = append(out, look(a.build(facts), rules, p.policies))
		}
	}
	return out
}

func (p *proof) examine(c clue) {
	want, known := p.plain[c.network]
	if !known {
		want = p.sights(p.told(plainDecline, c.network))
		p.plain[c.network] = want
	}
	for i, with := range companions {
		// The last clue leaves nothing of the companion's code.
		if i > 1 && !p.scene.thorough || with.presence && c.value == "" {
			continue
		}
		want := want
		if with.presence {
			want = p.veiled(with, c.network)
		}
		places := p.places(c)
		if i > 1 {
			places = places[:min(len(places), 1)]
		}
		for _, only := range places {
			facts := p.told(with, c.network)
			for _, at := range only {
				c.put(&facts[at])
			}
			for b, rules := range p.books {
				for j, a := range p.arrangements {
					// What has not arrived yet can hide nothing.
					if i > 0 && !slices.ContainsFunc(a.uses, func(at int) bool { return slices.Contains(only, at) }) {
						continue
					}
					// What comes before or after does not look at the companion either; the scenes gone through thoroughly show it.
					if (i > 1 || i > 0 && !p.scene.thorough) && !strings.HasPrefix(a.name, "arrived") {
						continue
					}
					if b > 0 && (i > 1 || !p.scene.thorough || len(a.uses) < len(facts)) {
						continue
					}
					p.compare(want[b*len(p.arrangements)+j], look(a.build(facts), rules, p.policies),
						fmt.Sprintf("%s in facts %v, beside %s, %s, rules %d", c.name, only, with.name, a.name, b))
				}
			}
		}
	}
}

// veiled is the scene with a companion, its words and codes put out of sight.
func (p *proof) veiled(with companion, network string) []sight {
	key := with.name + network
	if known, ok := p.plain[key]; ok {
		return known
	}
	hidden := decline.Rules{}.Classify(decline.Facts{Source: decline.Stripe, DeclineCode: decline.GenericDecline}).Public
	out := p.sights(p.told(with, network))
	for _, s := range out {
		for i := range s.Attempts {
			if a := &s.Attempts[i]; a.Code == with.decline {
				a.Code, a.NextStep, a.Field, a.RetrySameMethod = hidden.Code, string(hidden.NextStep), string(hidden.Field), hidden.RetrySameMethod
			}
		}
		for _, due := range s.Notices {
			for i := range due {
				if due[i].ShownCode == with.decline {
					due[i].ShownCode = hidden.Code
				}
			}
		}
	}
	p.plain[key] = out
	return out
}

// places are the facts that a signal may stand in: all that it fits together, and each alone.
func (p *proof) places(c clue) [][]int {
	var fit []int
	for i := range p.scene.facts {
		probe := p.scene.facts[i]
		if c.put(&probe) {
			fit = append(fit, i)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	places := [][]int{fit}
	if len(fit) > 1 && p.scene.thorough {
		for _, i := range fit {
			places = append(places, []int{i})
		}
	}
	return places
}

func (p *proof) compare(want, got sight, what string) {
	p.compared++
	if reflect.DeepEqual(want, got) {
		return
	}
	if p.differ++; len(p.shown) < mostShown {
		p.shown = append(p.shown, what+"\n"+difference(want, got))
	}
}

// difference names the members that differ.
func difference(want, got sight) string {
	var b strings.Builder
	members(&b, "payment", want.Payment, got.Payment)
	if len(want.Attempts) != len(got.Attempts) {
		fmt.Fprintf(&b, "  %d attempts, want %d\n", len(got.Attempts), len(want.Attempts))
		return b.String()
	}
	for i := range want.Attempts {
		members(&b, fmt.Sprint("attempt ", i), want.Attempts[i], got.Attempts[i])
	}
	for i := range want.Notices {
		if !reflect.DeepEqual(want.Notices[i], got.Notices[i]) {
			fmt.Fprintf(&b, "  due under policy %d: %s\n      want %s\n", i, brief(got.Notices[i]), brief(want.Notices[i]))
			break
		}
	}
	return b.String()
}

func members(b *strings.Builder, of string, want, got any) {
	w, g := reflect.ValueOf(want), reflect.ValueOf(got)
	for i := range w.NumField() {
		if x, y := w.Field(i).Interface(), g.Field(i).Interface(); !reflect.DeepEqual(x, y) {
			fmt.Fprintf(b, "  %s: %s is %v, want %v\n", of, w.Type().Field(i).Name, y, x)
		}
	}
}

func brief(list []store.Notification) string {
	var out []string
	for _, n := range list {
		out = append(out, fmt.Sprintf("%s/%s %s %s due %s code %q", n.Channel, n.Template, n.Status, n.Reason, n.DueAt.Format(time.TimeOnly), n.ShownCode))
	}
	return strings.Join(out, "; ")
}

// canFail makes sure that the comparison sees what it is there to see: without a signal the reason is told.
func (p *proof) canFail(t *testing.T) {
	t.Helper()
	want := p.plain[""]
	got := p.sights(p.told(companions[1], ""))
	for i, a := range p.arrangements {
		if len(a.uses) == len(p.scene.facts) && strings.HasPrefix(a.name, "arrived") {
			require.NotEqual(t, want[i].Attempts, got[i].Attempts, a.name)
		}
	}
}

// A value that is no signal changes nothing at all, so that it cannot be told from its absence either.
func TestARiskLevelThatIsNoSignalChangesNothing(t *testing.T) {
	t.Parallel()
	quietLevels := 0
	for _, e := range decline.All() {
		if e.Table != decline.StripeRiskLevels || e.Secret {
			continue
		}
		quietLevels++
		for _, sc := range scenes(t) {
			p := proof{scene: sc, books: []decline.Rules{{}}, policies: policies(t, sc.facts[0].Livemode), arrangements: arrangements(sc)}
			facts := p.told(companions[1], "")
			want := p.sights(facts)
			for i := range facts {
				if facts[i].RiskLevel != "" {
					facts[i].RiskLevel = e.Code
				}
			}
			require.Equal(t, want, p.sights(facts), "%s %s", sc.name, e.Code)
		}
	}
	require.NotZero(t, quietLevels)
}

// Frame's screening shows as a status of the charge, the transfer or the intent, on events of any type, before or after
// the charge fails with a reason of its own. An event that is read for such a status alone tells nothing else: what it
// says of the recipient or of presence would be known of screened payments only.
func TestAFraudStatusOnAnyEventOfFramesSilencesTheAttempt(t *testing.T) {
	t.Parallel()
	statuses := []string{"fraud_held"}
	for _, e := range decline.All() {
		if e.Table == decline.FrameStatuses && e.Secret {
			statuses = append(statuses, e.Code)
		}
	}
	require.Greater(t, len(statuses), 2)
	p := proof{scene: frameScene(t, "frame", `{}`, "null"), policies: policies(t, false)}
	for i, body := range frameBodies(`{"session":"off_session","email":"meta@example.com","locale":"fr"}`, `"ba_1"`) {
		for _, status := range statuses {
			for _, seconds := range []int64{-20, 20} {
				body, ok := altered(t, body, memberPath{"status"}, status)
				require.True(t, ok)
				about := p.scene.facts[i]
				event := decoded(t, "frame", bytes.Replace(body, []byte(`"`+about.EventType+`"`), []byte(`"`+about.Object+`.updated"`), 1))
				event.EventID, event.FailureCode = "evt_screened", ""
				event.Created += seconds
				event.ReceivedAt = time.Unix(event.Created, 0).UTC().Add(time.Second)
				var plain []store.Fact
				if status == "fraud_declined" { // a refusal, like that of an event that says so by its type
					plain = []store.Fact{event}
					plain[0].EventType, plain[0].Status = "transfer.failed", "failed"
				}
				for n := range p.scene.facts {
					uses := []int{0, 1, 2}[:n+1]
					want := look(append(received(p.told(plainDecline, ""), uses, 0), plain...), decline.Rules{}, p.policies)
					got := look(append(received(p.told(companions[1], ""), uses, 0), event), decline.Rules{}, p.policies)
					require.True(t, reflect.DeepEqual(want, got), "%s of a %s: %s", status, about.Object, difference(want, got))
				}
			}
		}
	}
}
