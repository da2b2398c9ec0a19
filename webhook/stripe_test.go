package webhook

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	stripewebhook "github.com/stripe/stripe-go/v79/webhook"
	"go.uber.org/zap"

	"rebound/handler"
)

type reply struct {
	status int
	body   string
	header http.Header
}

func (d *door) post(t testing.TB, body []byte, signature string, headers ...string) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url, bytes.NewReader(body))
	require.NoError(t, err)
	if signature != "" {
		r.Header.Set("Stripe-Signature", signature)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return do(t, r)
}

func do(t testing.TB, r *http.Request) reply {
	t.Helper()
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return reply{res.StatusCode, string(b), res.Header}
}

func (d *door) signed(t testing.TB, body []byte) reply {
	t.Helper()
	return d.post(t, body, sign(body, testNow, testSecret))
}

// count reads a counter of this door.
func (d *door) count(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	families, err := d.metrics.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			values := make([]string, 0, len(m.GetLabel()))
			for _, l := range m.GetLabel() {
				values = append(values, l.GetName()+"="+l.GetValue())
			}
			if strings.Join(values, " ") == strings.Join(labels, " ") {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func TestASignedEventIsRecordedThenAnswered(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	got := d.signed(t, []byte(failedCharge))
	require.Equal(t, http.StatusOK, got.status)
	require.JSONEq(t, `{"received":true}`, got.body)
	want, _ := decode(t, []byte(failedCharge))
	require.Equal(t, []handler.Delivery{want}, d.recorder.all())
	require.EqualValues(t, 1, d.count(t, "rebound_webhook_deliveries_total", "result=recorded", "source=stripe", "type=charge.failed"))
	require.EqualValues(t, 1, d.count(t, "rebound_webhook_secret_used_total", "secret=1", "source=stripe"))

	require.Equal(t, 1, d.logs.Len())
	line := d.logs.All()[0]
	require.Equal(t, "webhook.received", line.Message)
	fields := line.ContextMap()
	require.Equal(t, "evt_charge", fields["event"])
	require.Equal(t, "pi_1", fields["payment"])
	require.NotContains(t, fmt.Sprint(fields), "@", "no address in a log")
	require.NotContains(t, fmt.Sprint(fields), testSecret)
}

func TestRefusedRequestsGetOneConstantBody(t *testing.T) {
	t.Parallel()
	body := []byte(failedCharge)
	good := sign(body, testNow, testSecret)
	mac := strings.TrimPrefix(good[strings.Index(good, "v1="):], "v1=")
	at := func(d time.Duration) string { return sign(body, testNow.Add(d), testSecret) }
	stamp := fmt.Sprintf("t=%d", testNow.Unix())
	for name, signature := range map[string]string{
		"none": "", "not a signature": "hello", "only a time": stamp, "empty v1": stamp + ",v1=", "v0 only": stamp + ",v0=" + mac,
		"another secret": sign(body, testNow, "whsec_another_secret_entirely"), "empty secret": sign(body, testNow, ""),
		"another body": sign([]byte(failedIntent), testNow, testSecret), "no time": "v1=" + mac, "time is no number": "t=x,v1=" + mac,
		"time negative": "t=-1,v1=" + mac, "time out of range": "t=99999999999999999999,v1=" + mac,
		"a second past the tolerance": at(-301 * time.Second), "a second before it": at(301 * time.Second),
		"ten years ahead": at(87600 * time.Hour), "cut short": good[:len(good)-2], "upper case scheme": strings.Replace(good, "v1=", "V1=", 1),
		"a fresh time before a replayed one": stamp + "," + at(-time.Hour), "a fresh time after it": at(-time.Hour) + "," + stamp,
		"many": stamp + strings.Repeat(",v1="+hex.EncodeToString(make([]byte, 32)), 300),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := openDoor(t)
			got := d.post(t, body, signature)
			require.Equal(t, http.StatusBadRequest, got.status)
			require.Equal(t, string(bodyBad), got.body)
			require.Empty(t, d.recorder.all())
			require.Equal(t, "webhook.refused", d.logs.All()[0].Message)
			require.NotContains(t, fmt.Sprint(d.logs.All()[0].ContextMap()), "evt_", "nothing unverified is believed")
		})
	}
}

func TestSignaturesThatPass(t *testing.T) {
	t.Parallel()
	body := []byte(failedCharge)
	const older = "whsec_the_secret_before_this_one"
	d := openDoor(t, func(c *StripeConfig) { c.Secrets = []string{testSecret, older} })
	now := sign(body, testNow, testSecret)
	for name, signature := range map[string]string{
		"now": now, "at the tolerance": sign(body, testNow.Add(-300*time.Second), testSecret),
		"ahead, at the tolerance": sign(body, testNow.Add(300*time.Second), testSecret),
		"the older secret":        sign(body, testNow, older),
		"both, while rolling":     now + "," + strings.Split(sign(body, testNow, older), ",")[1],
		"one broken v1 before it": strings.Replace(now, ",v1=", ",v1=zz,v1=,v1=", 1),
		"v0 beside it":            now + ",v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39",
	} {
		require.Equal(t, http.StatusOK, d.post(t, body, signature).status, name)
	}
	require.EqualValues(t, 1, d.count(t, "rebound_webhook_secret_used_total", "secret=2", "source=stripe"))
	require.Len(t, d.recorder.all(), 7)
}

func TestBodiesThatAreNoEvent(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	for _, body := range []string{"null", "{}", "[]", "", "hello", `"x"`, "0", failedCharge[:500], `{"id":"evt_1"}`, `{"id":null,"type":"charge.failed"}`} {
		got := d.signed(t, []byte(body))
		require.Equal(t, http.StatusBadRequest, got.status, body)
		require.Equal(t, string(bodyBad), got.body)
	}
	require.Empty(t, d.recorder.all())
}

func TestEventsThatGiveNothingAreAcceptedUnrecorded(t *testing.T) {
	t.Parallel()
	d := openDoor(t, func(c *StripeConfig) {
		c.Recorder = &recorded{fail: func(context.Context) error { return errors.New("down") }}
	})
	for _, body := range []string{
		`{"id":"evt_1","type":"ping","request":"iar_1"}`,
		`{"id":"evt_1","object":"v2.core.event","type":"v1.billing.meter.error_report_triggered","created":"2026-03-01T12:00:00Z"}`,
		`{"id":"evt_1","type":"payout.failed","data":null}`,
	} {
		require.Equal(t, http.StatusOK, d.signed(t, []byte(body)).status)
	}
	require.EqualValues(t, 3, d.count(t, "rebound_webhook_deliveries_total", "result=ignored", "source=stripe", "type=other"))
}

func TestAnEventThatCannotBeUsedIsKeptAside(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	body := []byte(`{"id":"evt_1","type":"charge.failed"}`)
	require.Equal(t, http.StatusOK, d.signed(t, body).status)
	require.Equal(t, "no_object", d.recorder.all()[0].Quarantine.Reason)
	require.Equal(t, body, d.recorder.all()[0].Quarantine.Body)
	require.Equal(t, 1, d.logs.FilterField(zap.String("reason", "no_object")).Len())
}

func TestAThinEventOfAUsedTypeIsKeptAsideNotIgnored(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	for i, eventType := range []string{"v1.charge.failed", "v1.payment_intent.payment_failed", "v1.customer.updated"} {
		body := []byte(`{"id":"evt_` + eventType + `","object":"v2.core.event","type":"` + eventType + `","created":"2026-03-01T12:00:00.123Z",
		 "livemode":true,"reason":null,"related_object":{"id":"ch_1","type":"charge","url":"/v1/charges/ch_1"}}`)
		require.Equal(t, http.StatusOK, d.signed(t, body).status)
		require.Equal(t, &handler.Quarantined{
			Source: "stripe", EventID: "evt_" + eventType, EventType: eventType, Reason: "thin_event", Body: body,
		}, d.recorder.all()[i].Quarantine)
	}
	require.EqualValues(t, 3, d.count(t, "rebound_webhook_deliveries_total", "result=quarantined", "source=stripe", "type=other"))
	require.Equal(t, 3, d.logs.FilterField(zap.String("reason", "thin_event")).FilterLevelExact(zap.WarnLevel).Len())
}

func TestACardNumberIsMaskedInABodyThatIsKeptAside(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	v := parse(t, failedCharge)
	in, _ := at(t, v, "data.object.id")
	delete(in, "id")
	in["description"], in["failure_message"] = "card 4242 4242 4242 4242 12/29", "4242424242424242"
	require.Equal(t, http.StatusOK, d.signed(t, render(t, v)).status)
	kept := string(d.recorder.all()[0].Quarantine.Body)
	require.Contains(t, kept, "card **** **** **** 4242 12/29")
	require.NotContains(t, kept, "4242424242424242")
	require.EqualValues(t, 2, d.count(t, "rebound_masked_card_numbers_total", "source=stripe"))
}

func TestMisfitsAndMaskedNumbersAreCounted(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	require.Equal(t, 200, d.signed(t, with(t, failedCharge, "data.object.amount", "many")).status)
	require.Equal(t, 200, d.signed(t, with(t, failedCharge, "data.object.failure_message", "4242424242424242")).status)
	require.EqualValues(t, 1, d.count(t, "rebound_misfit_fields_total", "field=amount", "source=stripe"))
	require.EqualValues(t, 1, d.count(t, "rebound_masked_card_numbers_total", "source=stripe"))
	require.NotContains(t, fmt.Sprint(d.logs.All()), "4242424242424242")
}

func TestBodiesOverTheLimitAreRefused(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	big := bytes.Repeat([]byte(" "), 1<<20)
	require.Equal(t, http.StatusRequestEntityTooLarge, d.signed(t, big).status)
	fits := append([]byte(failedCharge), bytes.Repeat([]byte(" "), DefaultBodyLimit-len(failedCharge))...)
	require.Equal(t, http.StatusOK, d.signed(t, fits).status, "the limit itself fits")
	over := append(fits, ' ')
	require.Equal(t, http.StatusRequestEntityTooLarge, d.signed(t, over).status)

	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url, io.MultiReader(bytes.NewReader(over)))
	require.NoError(t, err) // chunked: no length is announced
	r.Header.Set("Stripe-Signature", sign(over, testNow, testSecret))
	require.Equal(t, http.StatusRequestEntityTooLarge, do(t, r).status)
}

func TestBodiesThatAreHeldBackTakeNoMoreThanTheirShareOfMemory(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	u, err := url.Parse(d.url)
	require.NoError(t, err)
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", u.Host)
	require.NoError(t, err)
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n%s", StripePath, strings.Repeat(" ", 999))
	require.NoError(t, err)
	held := func() int64 { return d.stripe.receiving.Load() }
	require.Eventually(t, func() bool { return held() == 999 }, 10*time.Second, time.Millisecond, "what was read counts, not what was announced")

	require.NoError(t, conn.Close())
	require.Eventually(t, func() bool { return held() == 0 }, 10*time.Second, time.Millisecond)

	d.stripe.receiving.Store(maxReceiving)
	got := d.signed(t, []byte(failedCharge))
	require.Equal(t, http.StatusServiceUnavailable, got.status)
	require.Equal(t, "5", got.header.Get("Retry-After"))
	require.EqualValues(t, maxReceiving, held(), "a refused body is given back")
	d.stripe.receiving.Store(0)
	require.Equal(t, http.StatusOK, d.signed(t, []byte(failedCharge)).status)
	require.Zero(t, held())

	aside := []byte(`{"id":"evt_1","type":"charge.failed"}`)
	var kept int64
	d.recorder.fail = func(context.Context) error { kept = held(); return nil }
	require.Equal(t, http.StatusOK, d.signed(t, aside).status)
	require.EqualValues(t, len(aside), kept, "what is kept aside counts until it is stored")
	require.Zero(t, held())
}

func TestEncodedBodiesAreRefused(t *testing.T) {
	t.Parallel()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := z.Write([]byte(failedCharge))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	d := openDoor(t)
	require.Equal(t, http.StatusUnsupportedMediaType, d.post(t, packed.Bytes(), sign(packed.Bytes(), testNow, testSecret), "Content-Encoding", "gzip").status)
	require.Empty(t, d.recorder.all())
}

func TestHeadersAreBounded(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	body := []byte(failedCharge)
	good := sign(body, testNow, testSecret)
	pad := func(n int) string { return good + strings.Repeat(",v1=00", n/6) }
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, d.post(t, body, pad(46<<10)).status)
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, d.post(t, body, pad(33<<10)).status)
	require.Equal(t, http.StatusOK, d.post(t, body, pad(30<<10)).status)
	require.Len(t, d.recorder.all(), 1)
}

func TestAFailingStoreIsAnswered503(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]error{"busy": handler.ErrBusy, "storage_failed": errors.New("connection refused")} {
		recorder := &recorded{fail: func(context.Context) error { return fmt.Errorf("recording: %w", fail) }}
		d := openDoor(t, func(c *StripeConfig) { c.Recorder = recorder })
		got := d.signed(t, []byte(failedCharge))
		require.Equal(t, http.StatusServiceUnavailable, got.status)
		require.Equal(t, "5", got.header.Get("Retry-After"))
		require.EqualValues(t, 1, d.count(t, "rebound_webhook_deliveries_total", "result="+name, "source=stripe", "type=charge.failed"))
		recorder.fail = nil
		require.Equal(t, http.StatusOK, d.signed(t, []byte(failedCharge)).status, "it recovers by itself")
	}
}

func TestTheStoreHasLessThanFiveSeconds(t *testing.T) {
	t.Parallel()
	d := openDoor(t, func(c *StripeConfig) {
		c.Recorder = &recorded{fail: func(ctx context.Context) error {
			until, ok := ctx.Deadline()
			if !ok || time.Until(until) >= 5*time.Second {
				return nil // a 200 fails the test
			}
			return context.DeadlineExceeded
		}}
	})
	require.Equal(t, http.StatusServiceUnavailable, d.signed(t, []byte(failedCharge)).status)
	require.EqualValues(t, 1, d.count(t, "rebound_webhook_deliveries_total", "result=storage_slow", "source=stripe", "type=charge.failed"))
}

func TestASenderThatHangsUpIsStillRecorded(t *testing.T) {
	t.Parallel()
	inside, gone := make(chan struct{}), make(chan struct{})
	after := make(chan error, 1)
	recorder := &recorded{fail: func(ctx context.Context) error {
		close(inside)
		<-gone
		after <- ctx.Err()
		return nil
	}}
	s, err := NewStripe(StripeConfig{Secrets: []string{testSecret}, Recorder: recorder, Now: func() time.Time { return testNow }})
	require.NoError(t, err)
	e := echo.New()
	s.Register(e)
	ctx, cancel := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, StripePath, strings.NewReader(failedCharge))
	r.Header.Set("Stripe-Signature", sign([]byte(failedCharge), testNow, testSecret))
	served := make(chan struct{})
	go func() { defer close(served); e.ServeHTTP(httptest.NewRecorder(), r) }()
	<-inside
	cancel()
	close(gone)
	<-served
	require.NoError(t, <-after)
	require.Len(t, recorder.all(), 1)
}

func TestASlowSenderIsCutOff(t *testing.T) {
	t.Parallel()
	d := &door{recorder: &recorded{}}
	s, err := NewStripe(StripeConfig{Secrets: []string{testSecret}, Recorder: d.recorder, Now: func() time.Time { return testNow }})
	require.NoError(t, err)
	e := echo.New()
	s.Register(e)
	server := httptest.NewUnstartedServer(e)
	ServerLimits(server.Config)
	require.NotZero(t, server.Config.ReadTimeout)
	require.NotZero(t, server.Config.ReadHeaderTimeout)
	require.NotZero(t, server.Config.WriteTimeout)
	require.NotZero(t, server.Config.IdleTimeout)
	server.Config.ReadTimeout = 50 * time.Millisecond
	server.Start()
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	require.NoError(t, err)
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", u.Host)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", StripePath)
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	require.Equal(t, http.StatusBadRequest, res.StatusCode)
	require.Empty(t, d.recorder.all())
}

func TestUnsafeSecretsAreRefused(t *testing.T) {
	t.Parallel()
	for _, secrets := range [][]string{nil, {}, {""}, {testSecret, ""}, {"whsec_short"}, {strings.Repeat(" ", 30)}, {testSecret + "\n"}} {
		_, err := NewStripe(StripeConfig{Secrets: secrets, Recorder: &recorded{}})
		require.Error(t, err)
		require.NotContains(t, err.Error(), "whsec_")
	}
	_, err := NewStripe(StripeConfig{Secrets: []string{testSecret}})
	require.Error(t, err, "a recorder is needed")
}

func TestTwoEndpointsShareOneSetOfMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	for range 2 {
		_, err := NewStripe(StripeConfig{Secrets: []string{testSecret}, Recorder: &recorded{}, Metrics: reg})
		require.NoError(t, err)
	}
}

func TestDeliveriesDoNotShareMemoryWithLaterOnes(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	for i := range 50 {
		body := with(t, failedCharge, "id", fmt.Sprintf("evt_%02d", i))
		require.Equal(t, http.StatusOK, d.signed(t, body).status)
	}
	for i, got := range d.recorder.all() {
		require.Equal(t, fmt.Sprintf("evt_%02d", i), got.Facts[0].EventID)
		require.Equal(t, "insufficient_funds", got.Facts[0].OutcomeReason)
	}
}

// The library reads the wall clock, so its tolerance cannot be tested with ours; this is what we rely on instead.
func TestTheLibraryTakesTheLastOfTwoTimes(t *testing.T) {
	t.Parallel()
	body := []byte(failedCharge)
	replayed := fmt.Sprintf("t=%d,", testNow.Unix()) + sign(body, testNow.Add(-time.Hour), testSecret)
	require.NoError(t, stripewebhook.ValidatePayloadIgnoringTolerance(body, replayed, testSecret))
	_, ok := signatureTime(replayed)
	require.False(t, ok)
}

func BenchmarkReceive(b *testing.B) {
	s, err := NewStripe(StripeConfig{Secrets: []string{testSecret}, Recorder: &recorded{fail: func(context.Context) error { return nil }}, Now: func() time.Time { return testNow }})
	require.NoError(b, err)
	body := []byte(failedIntent)
	signature := sign(body, testNow, testSecret)
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, StripePath, bytes.NewReader(body))
		r.Header.Set("Stripe-Signature", signature)
		if res := s.receive(httptest.NewRecorder(), r); res.status != http.StatusOK {
			b.Fatal(res.name)
		}
	}
}
