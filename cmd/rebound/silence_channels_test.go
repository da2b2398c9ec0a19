package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"rebound/console"
	"rebound/decline"
	"rebound/handler"
	"rebound/notify"
	"rebound/notify/checkout"
	"rebound/notify/email/smtptest"
	"rebound/notify/link"
	"rebound/store"
	"rebound/store/seal"
	"rebound/store/storetest"
)

// bystander is one payment of the proof: with a signal, a plain generic decline (""), or a control whose reason is told.
type bystander struct {
	key     store.PaymentKey
	locale  string
	signal  string
	control bool
	mailed  bool // its mail is sent and its links are followed
}

// kin are the bystanders that must look alike: everything but the signal is the same.
func (b *bystander) kin() string { return b.key.Source + " " + b.locale }

// silence is the system of the proof: the real store, recorder, sender and pages on one Postgres, and a clock that stands.
type silence struct {
	t        *testing.T
	store    *store.Store
	recorder *handler.Recorder
	config   *config
	all      []*bystander
	mailed   []*bystander
	byMail   map[string]*bystander // by Message-ID
	peer     *smtptest.Peer

	mu  sync.Mutex
	now time.Time
}

const silentPublicURL = "https://rebound.example"

// customer is whose inbox has the notice.
func (b *bystander) customer() string {
	if b.mailed {
		return "cus_1"
	}
	return "cus_2"
}

func newSilence(t *testing.T) *silence {
	t.Helper()
	keys, err := seal.ParseKeys(seal.GenerateKey())
	require.NoError(t, err)
	s := &silence{t: t, now: sceneTime.Add(5 * time.Second), byMail: map[string]*bystander{}}
	s.store, err = store.Open(t.Context(), store.Config{DSN: storetest.New(t), Keys: keys, MaxConns: 8, Now: s.clock})
	require.NoError(t, err)
	t.Cleanup(s.store.Close)
	s.peer = smtptest.New(t, smtptest.Options{})
	s.config = &config{
		Mode: "test", NotifyHold: time.Minute, NotifyHoldWeak: 30 * time.Minute, NotifyMaxAge: 24 * time.Hour, NotifyUnknown: "mail",
		SMTPURL: s.peer.URL(), MerchantName: "Example Shop", SupportEmail: "help@shop.example", PublicURL: silentPublicURL,
		PaymentURL: "https://shop.example/pay/{payment_id}",
	}
	s.config.from, s.config.replyTo = "payments@shop.example", "help@shop.example"
	s.recorder = handler.NewRecorder(s.store, s.config.policy(), zap.NewNop(), prometheus.NewRegistry())
	t.Cleanup(s.recorder.Close)
	return s
}

func (s *silence) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *silence) forward(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

// each runs do for bystanders, some at a time.
func (s *silence) each(list []*bystander, do func(b *bystander) error) {
	s.t.Helper()
	work := make(chan *bystander)
	errs := make(chan error, len(s.all))
	var workers sync.WaitGroup
	for range 32 {
		workers.Go(func() {
			for b := range work {
				if err := do(b); err != nil {
					errs <- fmt.Errorf("%s: %w", b.key.PaymentID, err)
				}
			}
		})
	}
	for _, b := range list {
		work <- b
	}
	close(work)
	workers.Wait()
	close(errs)
	require.NoError(s.t, <-errs)
}

// alike requires that what was seen of each bystander is what was seen of its plain kin, and that a control differs.
func (s *silence) alike(what string, list []*bystander, seen func(b *bystander) string) {
	s.t.Helper()
	s.compare(what, list, seen, false)
}

// compare is alike, or with all, that a control looks like the others too.
func (s *silence) compare(what string, list []*bystander, seen func(b *bystander) string, all bool) {
	s.t.Helper()
	plain := map[string]string{}
	for _, b := range list {
		if b.signal == "" && !b.control {
			plain[b.kin()] = seen(b)
			require.NotEmpty(s.t, plain[b.kin()], what)
		}
	}
	for _, b := range list {
		switch got := seen(b); {
		case b.control && !all:
			require.NotEqual(s.t, plain[b.kin()], got, "%s of a control, %s", what, b.kin())
		case got != plain[b.kin()]:
			require.Equal(s.t, plain[b.kin()], got, "%s of %s, %s", what, b.signal, b.kin())
		}
	}
}

// signalsOfCharge are the signals of the catalog by value, each where a charge has it.
func signalsOfCharge(t *testing.T) (charges map[string]store.Fact, signals map[string]clue) {
	t.Helper()
	charges, signals = map[string]store.Fact{}, map[string]clue{}
	for _, sc := range scenes(t) {
		if f := sc.facts[0]; sc.name == "authentication" || sc.name == "frame with metadata" {
			charges[f.Source] = f
		}
	}
	require.Len(t, charges, 2)
	for _, c := range clues(t) {
		for source, f := range charges {
			at, _ := decline.Explain(c.value, decline.Frame, "")
			if source == "frame" && len(at) == 0 && !strings.HasPrefix(c.name, frameStatus.name) {
				continue // Stripe's own code
			}
			if c.put(&f) {
				signals[strings.Join([]string{source, c.network, cmp.Or(c.value, c.name)}, " ")] = c
			}
		}
	}
	return charges, signals
}

func (s *silence) mailOf(b *bystander) string {
	return s.store.NotificationID(b.key, store.ChannelEmail, handler.TemplateFirst, "")
}

// populate records a payment for every signal in every language, and a plain one for each language. The mail of every
// signal is sent in one language or another: how it is worded lies behind the letter, and is gone through in each.
func (s *silence) populate(locales []string) {
	s.t.Helper()
	charges, signals := signalsOfCharge(s.t)
	names := slices.Sorted(maps.Keys(signals))
	facts := map[string]store.Fact{}
	add := func(source, locale, signal string, control, mailed bool) {
		b := &bystander{locale: locale, signal: signal, control: control, mailed: mailed}
		f := charges[source]
		with := plainDecline
		if control || signal != "" {
			with = companions[1] // what would be told
		}
		with.say(&f, false)
		if signal != "" {
			c := signals[signal]
			if c.network != "" {
				f.Network, f.Brand = c.network, c.network
			}
			require.True(s.t, c.put(&f))
		}
		id := fmt.Sprintf("%06d", len(s.all))
		f.PaymentID, f.PaymentIntent, f.Charge, f.EventID, f.Customer = "pi_"+id, "pi_"+id, "ch_"+id, "evt_"+id, b.customer()
		f.Locale, f.ReceivedAt, f.Created = locale, time.Time{}, sceneTime.Unix()
		f.Session = handler.OffSession
		f.Addresses = &store.Contact{Metadata: "payer" + id + "@example.com"}
		b.key = f.PaymentKey
		facts[f.PaymentID] = f
		s.all = append(s.all, b)
		if mailed {
			s.mailed = append(s.mailed, b)
		}
		s.byMail[s.mailOf(b)+"@shop.example"] = b
	}
	for i, locale := range locales {
		add("stripe", locale, "", false, true)
		add("frame", locale, "", false, true)
		add("stripe", locale, "", true, true)
		for j, name := range names {
			source, _, _ := strings.Cut(name, " ")
			add(source, locale, name, false, i == j%len(locales))
		}
	}
	s.each(s.all, func(b *bystander) error {
		return s.recorder.Record(s.t.Context(), handler.Delivery{Facts: []store.Fact{facts[b.key.PaymentID]}})
	})
}

// rows are what is due to whom, when, and the alarms that are set for it.
func (s *silence) rows() func(b *bystander) string {
	s.t.Helper()
	out := map[string]string{}
	found, err := s.store.Pool().Query(s.t.Context(), `SELECT n.payment_id, concat_ws('|', n.channel, n.template, n.status, n.reason, n.due_at, n.sent_at,
			length(n.customer), n.locale, n.shown_code, n.owner, n.tries, length(n.message_id), length(n.id), length(n.mailbox), n.created_at, n.updated_at,
			j.alarms)
		FROM notifications n LEFT JOIN LATERAL (
			SELECT string_agg(concat_ws(' ', queue, state, scheduled_at, priority, max_attempts), ';' ORDER BY river_job.id) AS alarms
			-- Mails that are due at about the same moment may share an alarm.
			FROM river_job WHERE args->>'notification_id' = n.id OR n.channel = 'email' AND n.status = 'held'
				AND n.due_at <= (args->>'until')::timestamptz AND n.due_at > (args->>'until')::timestamptz - interval '2 s'
		) j ON true
		ORDER BY n.payment_id, n.channel, n.template`)
	require.NoError(s.t, err)
	defer found.Close()
	for found.Next() {
		var id, row string
		require.NoError(s.t, found.Scan(&id, &row))
		out[id] += row + "\n"
	}
	require.NoError(s.t, found.Err())
	return func(b *bystander) string { return out[b.key.PaymentID] }
}

// What every channel says, in every language, of every signal of the catalog, through the real program and Postgres.
func TestNoChannelTellsAFraudSignalFromAGenericDecline(t *testing.T) {
	t.Parallel()
	s := newSilence(t)
	s.populate(decline.Locales())
	s.alike("what is due", s.all, s.rows())
	s.alike("the in-app notice", s.all, s.inboxes("", "cus_1", "cus_2"))
	for _, locale := range decline.Locales() {
		s.alike("the in-app notice in "+locale, s.mailed, s.inboxes(locale, "cus_1"))
	}
	s.alike("the checkout stream's state", s.all, s.states())
	s.forward(31 * time.Minute)
	letters := s.sendMails()
	s.alike("what was sent", s.mailed, s.rows())
	for _, locale := range decline.Locales() {
		s.alike("the mail in "+locale, s.mailed, s.mails(letters, locale))
	}
	s.compare("the links' pages", s.mailed, s.pages(letters), true)
	s.alike("the checkout stream's state at the end", s.mailed, s.states())
	t.Logf("%d payments, %d languages, %d mails", len(s.all), len(decline.Locales()), len(letters)+len(s.peer.Held()))
}

// inboxes reads customers' notices from the merchant API, in the payment's own language or in another.
func (s *silence) inboxes(locale string, customers ...string) func(b *bystander) string {
	s.t.Helper()
	api := console.New(console.Config{Store: s.store, Now: s.clock})
	out := map[string]string{}
	headers := map[string]bool{}
	for _, customer := range customers {
		ask := url.Values{"limit": {"100"}}
		if locale != "" {
			ask.Set("locale", locale)
		}
		for more := true; more; {
			rec := httptest.NewRecorder()
			api.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "http://localhost/v1/customers/"+customer+"/inbox?"+ask.Encode(), nil))
			require.Equal(s.t, http.StatusOK, rec.Code, rec.Body)
			headers[fmt.Sprint(rec.Header())] = true
			var page struct {
				Data    []json.RawMessage
				HasMore bool `json:"has_more"`
			}
			require.NoError(s.t, json.Unmarshal(rec.Body.Bytes(), &page))
			for _, raw := range page.Data {
				var n struct {
					ID        string
					PaymentID string `json:"payment_id"`
				}
				require.NoError(s.t, json.Unmarshal(raw, &n))
				out[n.PaymentID] += strings.NewReplacer(n.ID, "NOTICE", n.PaymentID, "PAYMENT", customer, "CUSTOMER").Replace(string(raw))
				ask.Set("starting_after", n.ID)
			}
			more = page.HasMore
		}
	}
	require.Len(s.t, headers, 1)
	return func(b *bystander) string { return out[b.key.PaymentID] }
}

// letterBox is a Mailer that keeps what it is given. A Letter is all that a Mailer gets, see
// TestAChannelIsGivenThePublicViewAlone.
type letterBox struct {
	*mailer
	mu      sync.Mutex
	letters map[string]notify.Letter // by Message-ID
}

func (l *letterBox) Deliver(_ context.Context, letter notify.Letter) notify.Outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.letters[letter.MessageID] = letter
	return notify.Outcome{Result: notify.Accepted, Code: 250}
}

// sendMails has the real Sender claim and send every mail that is due, and returns the letters by payment.
func (s *silence) sendMails() map[string]notify.Letter {
	s.t.Helper()
	m, err := newMailer(s.config)
	require.NoError(s.t, err)
	box := &letterBox{mailer: m, letters: map[string]notify.Letter{}}
	sender := notify.NewSender(notify.Config{
		Store: s.store, Mailer: box, Log: zap.NewNop(), PublicURL: silentPublicURL, MaxAge: s.config.NotifyMaxAge,
		Reminders: []time.Duration{72 * time.Hour}, Metrics: prometheus.NewRegistry(),
		Limits: notify.Limits{PerPayment24h: -1, PerPayment: -1, PerMailbox24h: -1, PerMailbox7d: -1, NewMailboxesPerHour: -1, PerDay: -1},
	})
	s.t.Cleanup(func() { sender.Stop(context.WithoutCancel(s.t.Context())) })
	s.each(s.mailed, func(b *bystander) error {
		_, err := sender.Deliver(s.t.Context(), s.mailOf(b))
		return err
	})
	letters := map[string]notify.Letter{}
	for id, letter := range box.letters {
		letters[s.byMail[id].key.PaymentID] = letter
	}
	require.Len(s.t, letters, len(s.mailed))
	return letters
}

var mailBoundary = regexp.MustCompile(`boundary=("?)([0-9A-Za-z'()+_,./:=?-]+)`)

// mails are the letters in a language as an SMTP server gets them, headers and all, as a first mail and as a reminder.
// Letters that are equal but for ids are sent once.
func (s *silence) mails(letters map[string]notify.Letter, locale string) func(b *bystander) string {
	s.t.Helper()
	m, err := newMailer(s.config)
	require.NoError(s.t, err)
	type same struct {
		account, locale, template, currency string
		public                              decline.Public
		amount                              int64
		date                                time.Time
		sizes                               [3]int
	}
	sent := map[same]string{}
	out := map[string]string{}
	for _, b := range s.mailed {
		l := letters[b.key.PaymentID]
		require.Equal(s.t, b.locale, l.Locale)
		l.Locale = locale
		key := same{l.Account, l.Locale, l.Template, l.Currency, l.Public, l.Amount, l.Date, [3]int{len(l.To), len(l.Link), len(l.MessageID)}}
		raw, known := sent[key]
		if !known {
			for _, template := range []string{l.Template, "reminder_1"} {
				l.To, l.Link, l.BeforeDot = "payer@example.com", silentPublicURL+"/pay/token", nil
				l.MessageID, l.Template = fmt.Sprintf("mail%05d@shop.example", len(s.peer.Held())), template
				require.Equal(s.t, notify.Accepted, m.Deliver(s.t.Context(), l).Result)
				held := s.peer.Held()
				mail := strings.ReplaceAll(string(held[len(held)-1].Raw), l.MessageID, "MAIL")
				boundary := mailBoundary.FindStringSubmatch(mail)
				require.NotNil(s.t, boundary)
				require.Contains(s.t, mail, "Subject:")
				raw += held[len(held)-1].From + "\n" + strings.ReplaceAll(mail, boundary[2], "BOUNDARY")
			}
			sent[key] = raw
		}
		out[b.key.PaymentID] = fmt.Sprint(raw, key.sizes)
	}
	return func(b *bystander) string { return out[b.key.PaymentID] }
}

// pages are the answers that the links of each mail get: to pay, to unsubscribe, and when the payment has succeeded.
func (s *silence) pages(letters map[string]notify.Letter) func(b *bystander) string {
	s.t.Helper()
	e := echo.New()
	(&link.Handler{Tokens: mailLinks{s.store, s.config}}).Register(e)
	var mu sync.Mutex
	out := map[string]string{}
	ask := func(b *bystander, methods ...string) error {
		token := strings.TrimPrefix(letters[b.key.PaymentID].Link, silentPublicURL+"/pay/")
		for _, request := range methods {
			method, path, _ := strings.Cut(request, " ")
			rec := httptest.NewRecorder()
			e.ServeHTTP(rec, httptest.NewRequest(method, path+token, nil))
			if rec.Code >= http.StatusBadRequest {
				return fmt.Errorf("%s was answered with %d", request, rec.Code)
			}
			header := &strings.Builder{}
			if err := rec.Header().Write(header); err != nil {
				return err
			}
			seen := fmt.Sprintln(request, rec.Code, header, rec.Body)
			mu.Lock()
			out[b.key.PaymentID] += strings.NewReplacer(token, "TOKEN", b.key.PaymentID, "PAYMENT").Replace(seen)
			mu.Unlock()
		}
		return nil
	}
	s.each(s.mailed, func(b *bystander) error { return ask(b, "GET /pay/", "GET /unsubscribe/", "POST /unsubscribe/") })
	s.succeed()
	s.each(s.mailed, func(b *bystander) error { return ask(b, "GET /pay/") })
	return func(b *bystander) string { return out[b.key.PaymentID] }
}

// succeed records that every payment came through after all.
func (s *silence) succeed() {
	s.t.Helper()
	s.each(s.mailed, func(b *bystander) error {
		f := store.Fact{
			PaymentKey: b.key, EventID: "evt_ok_" + b.key.PaymentID, EventType: "charge.succeeded", Object: "charge",
			Created: s.clock().Unix(), PaymentIntent: b.key.PaymentID, Charge: "ch_ok_" + b.key.PaymentID, Customer: b.customer(), Locale: b.locale,
		}
		return s.recorder.Record(s.t.Context(), handler.Delivery{Facts: []store.Fact{f}})
	})
}

// What the proof sends once for equal letters, streams once for equal states and shows once for equal targets rests on
// this: nothing but the members here reaches a channel, and of the verdict there is the public view alone.
func TestAChannelIsGivenThePublicViewAlone(t *testing.T) {
	t.Parallel()
	for of, want := range map[reflect.Type][]string{
		reflect.TypeFor[notify.Letter]():  {"To", "Account", "Locale", "Template", "Public", "Amount", "Currency", "Link", "MessageID", "Date", "BeforeDot"},
		reflect.TypeFor[checkout.State](): {"Key", "Status", "PaymentIntent", "AttemptID", "Public", "AwaitsCharge", "Age", "Locale"},
		reflect.TypeFor[checkout.Key]():   {"PaymentID", "Source", "Account", "Livemode"},
		reflect.TypeFor[store.Notice](): {
			"ID", "PaymentKey", "Customer", "Locale", "CreatedAt", "ReadAt", "PaymentStatus", "Amount", "Currency",
			"PublicCode", "PublicNextStep", "PublicField", "PublicRetry", "AwaitsCharge", "AttemptAt",
		},
		reflect.TypeFor[link.Target]():    {"State", "PaymentID", "PaymentURL", "Locale", "MerchantName", "SupportEmail"},
		reflect.TypeFor[decline.Public](): {"Code", "NextStep", "Field", "RetrySameMethod"},
	} {
		var have []string
		for f := range of.Fields() {
			have = append(have, f.Name)
		}
		require.Equal(t, want, have, of)
	}
}

// The Sender holds the whole attempt when it writes a letter. It reads the public view of it, its age and whether its
// charge is known, and nothing else.
func TestTheSenderReadsThePublicViewOfAnAttemptAlone(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("..", "..", "notify", "*.go"))
	require.NoError(t, err)
	read := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		var members int
		ast.Inspect(file, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if of, ok := s.X.(*ast.SelectorExpr); ok && of.Sel.Name == "Attempt" {
				read[s.Sel.Name] = true
				members--
			}
			if s.Sel.Name == "Attempt" {
				members++
			}
			return true
		})
		require.Zero(t, members, "%s hands an attempt on as a whole", name)
	}
	require.Equal(t, []string{"AwaitsCharge", "PublicCode", "PublicField", "PublicNextStep", "PublicRetry", "ReceivedAt"}, slices.Sorted(maps.Keys(read)))
}
