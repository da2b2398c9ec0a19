//go:build figures

package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"

	"rebound/cmd/rebound/internal/sample"
)

const frameSecret = "whsec_frame_0123456789abcdefghijklmnop"

// TestFigureMutants posts validly signed events that were damaged in every way we could think of, to both endpoints:
//
//	go test -tags figures -run TestFigureMutants -v -timeout 30m ./cmd/rebound
//
// BODIES (300000) sets the size, CONNECTIONS (16) stays far below the queue, so that a 503 is no honest answer. Mutant i
// of a seed is always the same body: SEED and FIRST=i BODIES=1 post that one alone.
func TestFigureMutants(t *testing.T) {
	count, connections, first := number(t, "BODIES", 300_000), number(t, "CONNECTIONS", 16), number(t, "FIRST", 1)
	_, seed := dice(t)
	all := soundEvents(t)
	a := newArena(t)
	r, _ := spawn(t, serveEnv(a.dsn, a.key, nil, setting{"FRAME_WEBHOOK_SECRET", frameSecret}, setting{"NOTIFY_HOLD", "1s"}))

	said := &answers{count: make(map[string]int), texts: make(map[int]string)}
	var alive, dead atomic.Int64
	over := make(chan struct{})
	var probe sync.WaitGroup
	probe.Go(func() {
		for every := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-over:
				every.Stop()
				return
			case <-every.C:
			}
			resp, err := http.Get(r.public + "/healthz")
			if err != nil || resp.StatusCode != http.StatusOK {
				dead.Add(1)
				continue
			}
			_ = resp.Body.Close()
			alive.Add(1)
		}
	})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}
	defer client.CloseIdleConnections()
	begun := time.Now()
	var next atomic.Int64
	var posts sync.WaitGroup
	for range connections {
		posts.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= count {
					return
				}
				said.post(client, r.public, first+i, mutant(all, seed, first+i))
			}
		})
	}
	posts.Wait()
	took := time.Since(begun)
	close(over)
	probe.Wait()

	panics, refused := 0, 0
	for _, line := range r.log.errors() {
		switch text := fmt.Sprint(line); {
		case line["msg"] == "delivery.quarantined":
			refused++
		case strings.Contains(text, "panic"):
			panics++
			t.Log(text)
		default:
			said.faults = append(said.faults, "the log says "+text)
		}
	}
	t.Logf("\n| mutants | took | panics | 5xx | bodies echoed | no answer | answers | refused by Postgres | alive, of so many looks |\n|---|---|---|---|---|---|---|---|---|\n| %d | %.0f s | %d | %d | %d | %d | %v | %d | %d of %d |",
		count, took.Seconds(), panics, said.broken, said.echoed, said.none, said.count, refused, alive.Load(), alive.Load()+dead.Load())

	require.Empty(t, said.faults)
	require.Zero(t, panics)
	require.Zero(t, dead.Load())
	require.GreaterOrEqual(t, said.count["stripe 2xx"]+said.count["frame 2xx"], count/2, "too few mutants get behind the door for the rest to mean anything")
	require.Zero(t, said.broken+said.echoed+said.none)
}

// answers counts what the server said. It has one text for each status, so one that says anything else may have said
// something of the body.
type answers struct {
	mu                   sync.Mutex
	count                map[string]int
	texts                map[int]string
	broken, echoed, none int
	faults               []string // the first few, to repeat them by
}

func (a *answers) post(client *http.Client, url string, i int, m mutantBody) {
	status, text, err := m.post(client, url)
	a.mu.Lock()
	defer a.mu.Unlock()
	kind := fmt.Sprintf("%s %dxx", m.door, status/100)
	fault := ""
	known, seen := a.texts[status]
	switch {
	case err != nil:
		a.none++
		kind, fault = "none", err.Error()
	case status >= http.StatusInternalServerError:
		a.broken++
		fault = fmt.Sprint(status)
	case !seen:
		a.texts[status] = text
	case known != text:
		a.echoed++
		fault = fmt.Sprintf("%d answers both %q and %q", status, known, text)
	}
	a.count[kind]++
	if fault != "" && len(a.faults) < 5 {
		a.faults = append(a.faults, fmt.Sprintf("FIRST=%d: %s", i, fault))
	}
}

type mutantBody struct {
	door string // stripe or frame
	body []byte
}

func (m mutantBody) post(client *http.Client, url string) (status int, text string, err error) {
	req, err := http.NewRequest(http.MethodPost, url+"/webhooks/"+m.door, bytes.NewReader(m.body))
	if err != nil {
		return 0, "", err
	}
	if m.door == "frame" {
		mac := hmac.New(sha256.New, []byte(frameSecret))
		mac.Write(m.body)
		req.Header.Set("X-Frame-Signature", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	} else {
		req.Header.Set("Stripe-Signature", sample.Sign(m.body, e2eSecret, time.Now()))
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(answer), err
}

// original is a sound event, with the ids that a mutant replaces: its own by a fresh one, that of its payment by one that
// ten mutants share, so that payments of several damaged events come about.
type original struct {
	door, body string
	event      string
	shared     []string
}

func soundEvents(t *testing.T) (all []original) {
	t.Helper()
	for _, c := range sample.Cases() {
		p, err := sample.Build(c.Name, sample.Params{Seed: 1, Now: time.Now()})
		require.NoError(t, err)
		for _, e := range p.Events {
			all = append(all, original{"stripe", string(e.Body), e.ID, []string{p.Intent, p.Charge, p.Customer}})
		}
	}
	now := time.Now().Unix()
	for _, o := range []struct{ door, eventType, object string }{
		{"stripe", "customer.updated", `{"id":"cus_mutant00000000000000","object":"customer","email":"known@example.com","name":"Ada Sample","preferred_locales":["fr","de"],"invoice_settings":{"default_payment_method":"pm_1"},"metadata":{"locale":"fr"},"created":1767225580}`},
		{"stripe", "invoice.payment_failed", `{"id":"in_mutant0000000000000000","object":"invoice","customer":"cus_mutant00000000000000","customer_email":"known@example.com","payment_intent":"pi_mutant0000000000000000","charge":"ch_mutant0000000000000000","billing_reason":"subscription_cycle","hosted_invoice_url":"https://invoice.stripe.com/i/x","attempt_count":2,"next_payment_attempt":1767229999,"amount_due":4200,"currency":"usd","status":"open","created":1767225580}`},
		{"frame", "charge.failed", `{"id":"charge-mutant-000000000000","object":"charge","amount":4200,"currency":"usd","status":"failed","failure_code":"insufficient_funds","failure_message":"Declined.","charge_intent":"intent-mutant-000000000000","customer":null,"account":"acct-mutant-000000000000","payment_method":"method-mutant-00000000000","payment_method_details":{"id":"method-mutant-00000000000","object":"payment_method","type":"card","customer_id":null,"card":{"brand":"visa","last_four":"6186","exp_month":"08","exp_year":"31"},"created":1767220000},"created":1767225599}`},
		{"frame", "transfer.failed", `{"id":"transfer-mutant-0000000000","object":"transfer","status":"failed","amount":4200,"currency":"USD","failure_reason":"Declined.","charge_intent":"intent-mutant-000000000000","payout":null,"billing_agreement":"ba_1","client_secret":"ci_mutant_secret_x","account":"acct-mutant-000000000000","source_payment_method":{"id":"method-mutant-00000000000","object":"payment_method","type":"card","card":{"brand":"visa","last_four":"6186","exp_month":"08","exp_year":"31"}},"metadata":{"session":"off_session","email":"meta@example.com","locale":"de-AT"},"created":1767225590}`},
		{"frame", "charge_intent.payment_failed", `{"id":"intent-mutant-000000000000","object":"charge_intent","amount":4200,"currency":"usd","status":"incomplete","failure_description":"Declined.","client_secret":"ci_mutant_secret_x","customer":{"id":"cus_mutant_1","object":"customer","email":"payer@example.com"},"account":"acct-mutant-000000000000","payment_method":"method-mutant-00000000000","latest_charge":{"id":"charge-mutant-000000000000","object":"charge","amount":4200,"currency":"usd","status":"failed","failure_code":"insufficient_funds","charge_intent":"intent-mutant-000000000000","created":1767225599},"metadata":{"session":"off_session","email":"meta@example.com"},"created":1767225580}`},
	} {
		event, data := "evt_mutant"+strings.Repeat("0", 14), o.object
		if o.door == "stripe" {
			data = `{"object":` + o.object + `}`
		}
		all = append(all, original{
			o.door, fmt.Sprintf(`{"id":%q,"object":"event","type":%q,"api_version":"2024-06-20","created":%d,"livemode":false,"data":%s}`, event, o.eventType, now, data), event,
			[]string{"pi_mutant0000000000000000", "ch_mutant0000000000000000", "in_mutant0000000000000000", "cus_mutant00000000000000", "charge-mutant-000000000000", "transfer-mutant-0000000000", "intent-mutant-000000000000"},
		})
	}
	return all
}

func (o original) renamed(i int) string {
	fresh := func(id string, n int) string { return id[:len(id)-8] + fmt.Sprintf("%08d", n) }
	pairs := []string{o.event, fresh(o.event, i)}
	for _, id := range o.shared {
		if id != "" {
			pairs = append(pairs, id, fresh(id, i/10))
		}
	}
	return strings.NewReplacer(pairs...).Replace(o.body)
}

// mutant damages one of the originals: its tree first, then sometimes its bytes.
func mutant(all []original, seed uint64, i int) mutantBody {
	random := rand.New(rand.NewPCG(seed, uint64(i))) //nolint:gosec // it is to be repeatable
	o := all[i/10%len(all)]
	m := mutantBody{door: o.door}
	if random.IntN(16) == 0 {
		m.door = map[string]string{"stripe": "frame", "frame": "stripe"}[o.door]
	}
	tree := parse(jsontext.NewDecoder(strings.NewReader(o.renamed(i))))
	for range 1 + random.IntN(4) {
		tree.damage(random)
	}
	m.body = tree.appendTo(nil)
	if random.IntN(8) == 0 {
		m.body = damageBytes(random, m.body)
	}
	return m
}

func damageBytes(random *rand.Rand, b []byte) []byte {
	at := random.IntN(len(b))
	switch random.IntN(7) {
	case 0:
		for range 1 + random.IntN(8) {
			b[random.IntN(len(b))] ^= byte(1 << random.IntN(8))
		}
		return b
	case 1:
		return b[:at]
	case 2:
		return append(b, pick(random, []string{"}", " null", "\x00", "{}", strings.Repeat(" ", 1000), "\n" + string(b)})...)
	case 3:
		return append([]byte("\xef\xbb\xbf"), b...)
	case 4:
		return []byte(pick(random, []string{"", "null", "{}", "[]", `""`, "0", "\x00", "{", "[[[[", `{"id":"evt_1"}`, `[{"id":"evt_1","type":"charge.failed"}]`}))
	case 5:
		return append(b[:at:at], append([]byte(pick(random, []string{"\x00", "\xff\xfe", `\u0000`, `\ud800`, `"`, ",", ":", "{", "]"})), b[at:]...)...)
	default:
		wide := make([]byte, 0, 2*len(b)) // UTF-16
		for _, c := range b {
			wide = append(wide, c, 0)
		}
		return wide
	}
}

func pick[T any](random *rand.Rand, from []T) T { return from[random.IntN(len(from))] }

// node is a JSON value whose members keep their order and may repeat. What stands in leaf and names goes out as it is,
// sound or not.
type node struct {
	leaf   string
	open   byte     // { or [; 0: a leaf
	names  []string // of an object's values, in quotes
	values []*node
}

func parse(d *jsontext.Decoder) *node {
	v, err := d.ReadToken()
	if err != nil {
		panic(err) // the originals are sound
	}
	n := &node{}
	switch v.Kind() {
	case '"':
		quoted, _ := jsontext.AppendQuote(nil, v.String())
		n.leaf = string(quoted)
		return n
	case '{', '[':
		n.open = byte(v.Kind())
	default:
		n.leaf = v.String()
		return n
	}
	for k := d.PeekKind(); k != '}' && k != ']'; k = d.PeekKind() {
		if n.open == '{' {
			n.names = append(n.names, parse(d).leaf)
		}
		n.values = append(n.values, parse(d))
	}
	_, _ = d.ReadToken()
	return n
}

func (n *node) appendTo(b []byte) []byte {
	if n.open == 0 {
		return append(b, n.leaf...)
	}
	b = append(b, n.open)
	for i, v := range n.values {
		if i > 0 {
			b = append(b, ',')
		}
		if n.open == '{' {
			b = append(append(b, n.names[i]...), ':')
		}
		b = v.appendTo(b)
	}
	return append(b, n.open+2) // } and ] lie two behind
}

// each calls do for every value below n with what holds it.
func (n *node) each(do func(parent *node, i int)) {
	for i, v := range n.values {
		do(n, i)
		v.each(do)
	}
}

// telling are the members that decide the most.
var telling = []string{
	"id", "object", "type", "created", "livemode", "account", "api_version", "data", "request", "payment_intent", "charge", "latest_charge",
	"customer", "invoice", "amount", "currency", "status", "failure_code", "outcome", "reason", "advice_code", "network_decline_code",
	"last_payment_error", "code", "decline_code", "payment_method", "payment_method_details", "card", "metadata", "email", "receipt_email",
	"charge_intent", "client_secret", "fingerprint", "last4", "exp_month", "country", "setup_future_usage", "charges", "failure_reason",
}

var eventTypes = []string{
	"charge.failed", "charge.succeeded", "charge.expired", "charge.pending", "charge.updated", "charge.refunded", "payment_intent.payment_failed",
	"payment_intent.succeeded", "payment_intent.canceled", "payment_intent.processing", "payment_intent.requires_action", "payment_intent.created",
	"payment_intent.amount_capturable_updated", "invoice.payment_failed", "invoice.paid", "invoice.voided", "invoice.payment_action_required",
	"customer.created", "customer.updated", "customer.deleted", "transfer.failed", "transfer.succeeded", "charge_intent.succeeded",
	"charge_intent.payment_failed", "charge_intent.canceled", "charge_intent.expired", "charge_intent.requires_action", "nothing.known", "",
}

// absurd values: of another type, out of every range, or what some later reader could stumble over.
var absurd = []string{
	"null", "true", "false", "0", "-0", "-1", "0.1", "4200.0", "42e2", "1e400", "-1e400", "1e-400", "1e13", "1e18", "253402300800", "-62135596801",
	"99999999999999", "2147483648", "9007199254740993", "9223372036854775807", "9223372036854775808", "-9223372036854775809",
	strings.Repeat("9", 400), "NaN", "01", "0x10", "'x'", "undefined",
	`""`, `" "`, `"\u0000"`, `"a\u0000b"`, `"\ud800"`, `"\udfff\ud800"`, `"\ud83d\ude00"`, "\"\xff\xfe\"", "\"\xed\xa0\x80\"", `"\u202Eevil"`, `"4242424242424242"`, `"1e400"`,
	`"\r\nBcc: victim@example.com"`, `"a@x.example, b@x.example"`, `"<script>alert(1)</script>"`, `"'; DROP TABLE payments; --"`, `"%s%n{{.}}"`, `"../../etc/passwd"`,
	`"on_session"`, `"off_session"`, `"fraudulent"`, `"in_person"`,
	"[]", "{}", "[null]", "[[]]", `[{"id":"x"}]`, `{"id":null}`, `{"id":{"id":"x"}}`, `{"object":{"object":{}}}`, `{"":""}`, `{"a":1,"a":2}`,
}

// huge values are rare among the mutants, or they would be all of the work.
var huge = []string{
	`"` + strings.Repeat("x", 300) + `"`, `"` + strings.Repeat("é", 3000) + `"`, `"` + strings.Repeat("\U0001F4B3", 20_000) + `"`,
	strings.Repeat("[", 100) + strings.Repeat("]", 100), strings.Repeat("[", 9_990) + strings.Repeat("]", 9_990), strings.Repeat("[", 20_000),
	strings.Repeat(`{"a":`, 9_000) + "1" + strings.Repeat("}", 9_000), "[" + strings.Repeat("0,", 50_000) + "0]", strings.Repeat("x", 300_000),
}

// damage does one harm to one value.
func (n *node) damage(random *rand.Rand) {
	type place struct {
		parent *node
		at     int
	}
	var all, named []place
	name := strconv.Quote(pick(random, telling))
	n.each(func(parent *node, i int) {
		all = append(all, place{parent, i})
		if parent.open == '{' && parent.names[i] == name {
			named = append(named, place{parent, i})
		}
	})
	if len(all) == 0 {
		return
	}
	where := pick(random, all)
	if len(named) > 0 && random.IntN(3) > 0 {
		where = pick(random, named)
	}
	p, i := where.parent, where.at
	v := p.values[i]
	strange := &node{leaf: pick(random, absurd)}
	if random.IntN(100) == 0 {
		strange.leaf = pick(random, huge)
	}
	switch random.IntN(12) {
	case 0, 1, 2:
		p.values[i] = strange
	case 3: // deleted
		p.values = slices.Delete(p.values, i, i+1)
		if p.open == '{' {
			p.names = slices.Delete(p.names, i, i+1)
		}
	case 4: // twice, with another value before or after the true one
		at := i + random.IntN(2)
		p.values = slices.Insert(p.values, at, strange)
		if p.open == '{' {
			p.names = slices.Insert(p.names, at, p.names[i])
		}
	case 5: // another spelling of its name, an equal one among them
		if p.open == '{' && len(p.names[i]) > 2 {
			inner := strings.Trim(p.names[i], `"`)
			p.names[i] = `"` + pick(random, []string{
				strings.ToUpper(inner), strings.ToUpper(inner[:1]) + inner[1:], fmt.Sprintf(`\u%04x`, inner[0]) + inner[1:], inner + `\u0000`, " " + inner,
				`\ud800` + inner, strings.Repeat(inner, 1000), "\xff" + inner, "",
			}) + `"`
		}
	case 6: // wrapped, or as text
		quoted, _ := jsontext.AppendQuote(nil, string(v.appendTo(nil)))
		p.values[i] = pick(random, []*node{
			{open: '[', values: []*node{v}}, {open: '{', names: []string{`"id"`}, values: []*node{v}}, {leaf: string(quoted)}, {open: '[', values: []*node{v, v}},
		})
	case 7: // changed places with another value; not within itself, where it would have no end
		other := pick(random, all)
		if w := other.parent.values[other.at]; v.open == 0 && w.open == 0 {
			p.values[i], other.parent.values[other.at] = w, v
		}
	case 8: // something strange inside a text
		if strings.HasPrefix(v.leaf, `"`) {
			at := 1 + random.IntN(len(v.leaf)-1)
			p.values[i] = &node{leaf: v.leaf[:at] + pick(random, []string{`\u0000`, `\ud800`, "\xc3", "\u202e", `\n`, `\"`, strings.Repeat("y", 4000), "\x00", `\`}) + v.leaf[at:]}
		}
	case 9: // a great many strangers beside it
		if p.open == '{' {
			for m := range 1 + random.IntN(500) {
				p.names, p.values = append(p.names, strconv.Quote(fmt.Sprintf("k%d", m))), append(p.values, strange)
				if len(strange.leaf) > 100 {
					break
				}
			}
		}
	case 10: // another event
		for at, member := range n.names {
			if member == `"type"` {
				n.values[at] = &node{leaf: strconv.Quote(pick(random, eventTypes))}
			}
		}
	default: // another time
		for at, member := range p.names {
			if member == `"created"` {
				p.values[at] = &node{leaf: pick(random, []string{"0", "-1", "1", "253402300800", "1e13", "9223372036854775807", "-9223372036854775808", "1767225600.5", "4102444800"})}
			}
		}
	}
}
