package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/cmd/rebound/internal/sample"
	"rebound/decline"
	"rebound/handler"
	"rebound/store"
	"rebound/webhook"
)

func stripeCharge(f *store.Fact) bool { return f.Source == "stripe" && f.Object == "charge" }
func stripeIntent(f *store.Fact) bool { return f.Source == "stripe" && f.Object == "payment_intent" }
func frameFact(f *store.Fact) bool    { return f.Source == "frame" }

// embedded tells whether an intent's fact was read together with the charge inside it, as old API versions have it.
func embedded(f *store.Fact) bool {
	return stripeIntent(f) && f.APIVersion < "2022-11-15" && f.LatestCharge != ""
}

// clue is one signal in one of the fields that can hold it.
type clue struct {
	name    string
	network string                  // the card's network, where the signal means something on that one only
	put     func(*store.Fact) bool  // false: this fact has no such field
	member  map[string][]memberPath // where it stands in an event, by the object's name
	value   string
}

// memberPath is the way to a member of an event's object.
type memberPath []string

// place is a field of a fact that holds a code or a signal.
type place struct {
	name string
	fits func(*store.Fact) bool
	set  func(*store.Fact, string)
	in   map[string][]memberPath
}

// The ways into an intent's newest charge: inside the list of old API versions.
func ofCharge(path ...string) []memberPath { return []memberPath{path} }
func ofIntentsCharge(path ...string) []memberPath {
	return []memberPath{append(memberPath{"charges", "data", "0"}, path...)}
}

func setFailureCode(f *store.Fact, s string) { f.FailureCode = s }
func setReason(f *store.Fact, s string)      { f.OutcomeReason = s }

// codePlaces are the fields in which a decline or error code can arrive. Codes turn up in each other's fields, so each
// secret code is put in all of them.
var codePlaces = []place{
	{"charge.failure_code", stripeCharge, setFailureCode, map[string][]memberPath{"charge": ofCharge("failure_code")}},
	{"charge.outcome.reason", stripeCharge, setReason, map[string][]memberPath{"charge": ofCharge("outcome", "reason")}},
	{"the intent's charge.failure_code", embedded, setFailureCode, map[string][]memberPath{"payment_intent": ofIntentsCharge("failure_code")}},
	{"the intent's charge.outcome.reason", embedded, setReason, map[string][]memberPath{"payment_intent": ofIntentsCharge("outcome", "reason")}},
	{"last_payment_error.code", stripeIntent, func(f *store.Fact, s string) { f.ErrorCode = s },
		map[string][]memberPath{"payment_intent": {{"last_payment_error", "code"}}}},
	{"last_payment_error.decline_code", stripeIntent, func(f *store.Fact, s string) { f.DeclineCode = s },
		map[string][]memberPath{"payment_intent": {{"last_payment_error", "decline_code"}}}},
	{"Frame's failure_code", frameFact, setFailureCode,
		map[string][]memberPath{"charge": {{"failure_code"}}, "transfer": {{"failure_code"}}, "charge_intent": {{"latest_charge", "failure_code"}}}},
}

// chargeOrIntent is a place that a charge has, and an intent by the charge inside it.
func chargeOrIntent(name string, set func(*store.Fact, string), path ...string) place {
	return place{name, func(f *store.Fact) bool { return stripeCharge(f) || embedded(f) }, set,
		map[string][]memberPath{"charge": ofCharge(path...), "payment_intent": ofIntentsCharge(path...)}}
}

var (
	outcomeType   = chargeOrIntent("outcome.type", func(f *store.Fact, s string) { f.OutcomeType = s }, "outcome", "type")
	networkStatus = chargeOrIntent("outcome.network_status", func(f *store.Fact, s string) { f.NetworkStatus = s }, "outcome", "network_status")
	riskLevel     = chargeOrIntent("outcome.risk_level", func(f *store.Fact, s string) { f.RiskLevel = s }, "outcome", "risk_level")
	stripeReport  = chargeOrIntent("fraud_details.stripe_report", func(f *store.Fact, s string) { f.StripeReport = s }, "fraud_details", "stripe_report")
	frameStatus   = place{"Frame's status", frameFact, func(f *store.Fact, s string) { f.Status = s },
		map[string][]memberPath{"charge": {{"status"}}, "transfer": {{"status"}}, "charge_intent": {{"status"}}}}
)

// networkPlaces hold a network's own code: in the charge's outcome and in the intent's error.
func networkPlaces(member string, set func(*store.Fact, string)) []place {
	return []place{
		{"outcome." + member, stripeCharge, set, map[string][]memberPath{"charge": ofCharge("outcome", member)}},
		{"last_payment_error." + member, stripeIntent, set, map[string][]memberPath{"payment_intent": {{"last_payment_error", member}}}},
	}
}

// placesOf says which fields can hold the values of a table; nil: none of its rows can be a signal that this file knows
// how to place.
func placesOf(t decline.Table) []place {
	switch t {
	case decline.StripeDeclineCodes, decline.StripeLocalDeclineCodes, decline.StripeErrorCodes, decline.StripeOutcomeReasons, decline.FrameDeclineCodes:
		return codePlaces
	case decline.StripeOutcomeTypes:
		return []place{outcomeType}
	case decline.StripeNetworkStatuses:
		return []place{networkStatus}
	case decline.StripeRiskLevels:
		return []place{riskLevel}
	case decline.FrameStatuses:
		return []place{frameStatus}
	case decline.NetworkAdviceCodes:
		return networkPlaces("network_advice_code", func(f *store.Fact, s string) { f.NetworkAdviceCode = s })
	case decline.NetworkDeclineCodes:
		return networkPlaces("network_decline_code", func(f *store.Fact, s string) { f.NetworkDeclineCode = s })
	}
	return nil
}

// clues enumerates the catalog's signals, each in every field that can hold it. A row that is new is new here too.
func clues(t *testing.T) []clue {
	t.Helper()
	var out []clue
	seen := map[string]bool{}
	add := func(value, network string, places []place) {
		for _, p := range places {
			if key := p.name + " " + network + " " + value; !seen[key] {
				seen[key] = true
				out = append(out, clue{name: p.name + "=" + value, network: network, value: value, member: p.in,
					put: func(f *store.Fact) bool {
						if p.fits(f) {
							p.set(f, value)
							return true
						}
						return false
					}})
			}
		}
	}
	for _, e := range decline.All() {
		if e.Table == decline.NetworkDeclineCategories || e.Table == decline.NetworkCombinations {
			require.False(t, e.Secret, "%s of %s", e.Code, e.Table)
			continue // they describe codes of other tables, and no event carries them
		}
		risky := e.Verdict.Type == decline.Blocked || e.Verdict.Category == decline.FraudRisk
		require.False(t, e.Informs && risky && !e.Secret, "%s of %s is a block or a fraud risk and is not marked as secret", e.Code, e.Table)
		if !e.Secret {
			continue
		}
		places := placesOf(e.Table)
		require.NotEmpty(t, places, "%s of %s is secret, and this test does not know where events have it", e.Code, e.Table)
		add(e.Code, e.Network, places)
		if e.Table == decline.StripeLocalDeclineCodes && !strings.HasPrefix(e.Code, "partner_") {
			add("partner_"+e.Code, "", places)
		}
	}
	// Signals that are no row: Radar's report, and values that are newer than the catalog.
	add("fraudulent", "", []place{stripeReport})
	add("user_fraudulent", "", []place{stripeReport})
	add("held_for_screening", "", []place{outcomeType})
	add("fraud_held", "", []place{frameStatus})
	add("suspicious_pattern", "", codePlaces)
	return append(out, clue{name: "all that Radar says of a block", put: func(f *store.Fact) bool {
		switch {
		case stripeCharge(f) || embedded(f):
			f.FailureCode, f.OutcomeType, f.OutcomeReason = "card_declined", "blocked", "highest_risk_level"
			f.NetworkStatus, f.RiskLevel, f.StripeReport = "not_sent_to_network", "highest", "fraudulent"
		case !stripeIntent(f):
			return false
		}
		if stripeIntent(f) {
			f.ErrorCode, f.DeclineCode = "card_declined", "fraudulent"
		}
		return true
	}})
}

// scene is one attempt at a payment in one situation, as the facts of its failure events.
type scene struct {
	name     string
	facts    []store.Fact
	late     time.Duration // how late they are received
	thorough bool          // beside every companion, in every order, and in each event alone
}

// afterwards are events that may follow.
func (sc scene) afterwards() []store.Fact {
	names := []string{"payment_intent.succeeded", "payment_intent.canceled", "payment_intent.requires_action"}
	if frameFact(&sc.facts[0]) {
		names = []string{"charge_intent.succeeded", "charge_intent.canceled", "charge_intent.requires_action"}
	}
	var out []store.Fact
	for _, name := range names {
		f := sc.facts[0]
		quiet(&f)
		f.EventID, f.EventType, f.Object = "evt_then", name, name[:strings.IndexByte(name, '.')]
		f.Created += 60
		f.ReceivedAt = time.Unix(f.Created, 0).UTC().Add(sc.late + time.Second)
		out = append(out, f)
	}
	return out
}

var sceneTime = time.Date(2026, 11, 24, 9, 30, 0, 0, time.UTC)

var silentOptions = webhook.DecodeOptions{
	SessionKey: "session", EmailKey: "email", LocaleKey: "locale",
	HashClientSecret: func(s string) []byte { return []byte("hash of " + s) },
	Now:              func() time.Time { return sceneTime },
}

func decoded(t *testing.T, source string, body []byte) store.Fact {
	t.Helper()
	var d handler.Delivery
	var err error
	if source == "frame" {
		d, _, err = webhook.DecodeFrame(body, silentOptions, false)
	} else {
		d, _, err = webhook.DecodeStripe(body, silentOptions)
	}
	require.NoError(t, err)
	require.Len(t, d.Facts, 1, string(body))
	return d.Facts[0]
}

// scenes are the sample payments of the simulator, and situations made from them that differ in whether the customer is
// there and by what evidence that is known.
func scenes(t *testing.T) []scene {
	t.Helper()
	var out []scene
	of := func(name string) []store.Fact {
		p, err := sample.Build(name, sample.Params{Seed: 7, Now: sceneTime})
		require.NoError(t, err)
		var facts []store.Fact
		for _, e := range p.Events {
			facts = append(facts, decoded(t, "stripe", e.Body))
		}
		return facts
	}
	for _, c := range sample.Cases() {
		out = append(out, scene{name: c.Name, facts: of(c.Name), thorough: c.Name == "pair" || c.Name == "authentication"})
	}
	changed := func(name, from string, change func(*store.Fact)) {
		facts := of(from)
		for i := range facts {
			change(&facts[i])
		}
		out = append(out, scene{name: name, facts: facts})
	}
	changed("off session by metadata", "pair", func(f *store.Fact) { f.Session, f.Customer, f.Locale = handler.OffSession, "cus_1", "de" })
	changed("on session by metadata", "authentication", func(f *store.Fact) { f.Session = handler.OnSession })
	changed("in person", "pair", func(f *store.Fact) { f.MethodType, f.Customer = "card_present", "cus_1" })
	changed("guest with a wallet", "pair", func(f *store.Fact) {
		f.Wallet, f.SetupFutureUsage, f.MethodSaved, f.CVCCheck, f.MethodCreated = "apple_pay", "", "", "", 0
	})
	changed("typed by staff", "authentication", func(f *store.Fact) { f.Moto = true })
	changed("3-D Secure challenged", "authentication", func(f *store.Fact) { f.ThreeDSecure, f.ThreeDSecureFlow = "failed", "challenge" })
	changed("3-D Secure attempted", "authentication", func(f *store.Fact) { f.ThreeDSecure = "attempt_acknowledged" })
	changed("local method", "pair", func(f *store.Fact) {
		f.MethodType, f.Brand, f.Network, f.Last4, f.CVCCheck = "klarna", "", "", "", ""
	})
	out = append(out,
		scene{name: "received an hour late", facts: of("authentication"), late: time.Hour},
		scene{name: "too old", facts: of("authentication"), late: 48 * time.Hour},
		frameScene(t, "frame", `{}`, "null"),
		frameScene(t, "frame with metadata", `{"session":"off_session","email":"meta@example.com","locale":"fr"}`, "null"),
		frameScene(t, "frame under an agreement", `{}`, `"ba_1"`))
	return out
}

// frameBodies are the three events by which Frame tells of one attempt.
func frameBodies(metadata, agreement string) [][]byte {
	const charge = `"id":"ch_frame_1","object":"charge","amount":4200,"currency":"usd","status":"failed","failure_code":"generic_decline",
		"charge_intent":"ci_frame_1","account":"acc_1","payment_method_details":{"id":"pm_f","type":"card","card":{"brand":"visa","last_four":"6186"}},"created":1767225599`
	var out [][]byte
	for i, e := range []struct{ kind, object string }{
		{"charge.failed", "{" + charge + "}"},
		{"transfer.failed", `{"id":"tr_1","object":"transfer","status":"failed","amount":4200,"currency":"USD","charge_intent":"ci_frame_1","account":"acc_1",
			"billing_agreement":` + agreement + `,"metadata":` + metadata + `,"source_payment_method":{"id":"pm_f","type":"card","card":{"brand":"visa","last_four":"6186"}}}`},
		{"charge_intent.payment_failed", `{"id":"ci_frame_1","object":"charge_intent","amount":4200,"currency":"usd","status":"incomplete","account":"acc_1",
			"metadata":` + metadata + `,"latest_charge":{` + charge + `}}`},
	} {
		out = append(out, fmt.Appendf(nil, `{"id":"evt_frame_%d","object":"event","type":%q,"created":1767225600,"livemode":false,"data":%s}`, i, e.kind, e.object))
	}
	return out
}

func frameScene(t *testing.T, name, metadata, agreement string) scene {
	t.Helper()
	sc := scene{name: name, thorough: name == "frame"}
	for _, body := range frameBodies(metadata, agreement) {
		sc.facts = append(sc.facts, decoded(t, "frame", body))
	}
	return sc
}

// A signal that stands in an event's body comes out of the decoder in the fields that the proof varies, and changes no
// other: not the attempt that the event belongs to, not the recipient, not the evidence of presence.
func TestASignalInAnEventChangesTheVerdictsFieldsAlone(t *testing.T) {
	t.Parallel()
	type event struct {
		source string
		body   []byte
	}
	var events []event
	for _, c := range sample.Cases() {
		p, err := sample.Build(c.Name, sample.Params{Seed: 7, Now: sceneTime})
		require.NoError(t, err)
		for _, e := range p.Events {
			events = append(events, event{"stripe", e.Body})
		}
	}
	for _, body := range frameBodies(`{"email":"meta@example.com"}`, "null") {
		events = append(events, event{"frame", body})
	}
	all := clues(t)
	changed := make([]int, len(all))
	t.Run("in", func(t *testing.T) {
		for _, e := range events {
			base := decoded(t, e.source, e.body)
			quiet(&base)
			for i, c := range all {
				for _, path := range c.member[base.Object] {
					body, ok := altered(t, e.body, path, c.value)
					if !ok || frameFact(&base) != strings.HasPrefix(c.name, "Frame's") {
						continue
					}
					got := decoded(t, e.source, body)
					probe := got
					require.True(t, c.put(&probe), "%s of a %s", c.name, base.Object)
					require.Equal(t, probe, got, "%s of a %s is not read as it is put", c.name, base.Object)
					quiet(&got)
					require.Equal(t, base, got, "%s of a %s", c.name, base.Object)
					changed[i]++
				}
			}
		}
	})
	for i, c := range all {
		if len(c.member) > 0 {
			require.NotZero(t, changed[i], "%s was put in no event", c.name)
		}
	}
}

// altered is an event with one member of its object set; false where the way to it is not there.
func altered(t *testing.T, body []byte, path memberPath, value string) ([]byte, bool) {
	t.Helper()
	var event map[string]any
	require.NoError(t, json.Unmarshal(body, &event))
	data, _ := event["data"].(map[string]any)
	at := any(data)
	if inner, ok := data["object"].(map[string]any); ok {
		at = inner
	}
	for _, step := range path[:len(path)-1] {
		switch v := at.(type) {
		case map[string]any:
			at = v[step]
		case []any:
			if !slices.Contains([]string{"0"}, step) || len(v) == 0 {
				return nil, false
			}
			at = v[0]
		default:
			return nil, false
		}
	}
	object, ok := at.(map[string]any)
	if !ok {
		return nil, false
	}
	object[path[len(path)-1]] = value
	out, err := json.Marshal(event)
	require.NoError(t, err)
	return out, true
}
