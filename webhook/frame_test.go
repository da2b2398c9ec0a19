package webhook

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"rebound/handler"
)

// frameVector is signed with two secrets, as worked out by hand from Frame's description.
const (
	frameVector       = `{"id":"evt_demo_0001","type":"charge.failed","object":"event","created":1767225600,"livemode":false,"data":{"id":"4b0c7c1e-0d7a-4f43-9d1e-2f6f2d3b9a01","object":"charge","amount":4200,"currency":"usd","status":"failed","failure_code":"insufficient_funds"}}`
	frameSecret       = "whsec_frame_demo_secret_0123456789abcdef"
	frameVectorMAC    = "5dc96319b4854c1fb7a00bb06b7fea78e91a993cc43a9bdc5cb15af512293d13"
	frameSecretBare   = "Zk3Qp8Lr2Vt6Xw9Yb1Nc5Md7Hf4Jg0Ks"
	frameVectorMACToo = "1039f2257dfede4b13cd16dfcdf2bf82de7a94a2e769fdce8cb2d30f77c14b78"
)

func openFrameDoor(t testing.TB, change ...func(*FrameConfig)) *door {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	d := &door{recorder: &recorded{}, metrics: prometheus.NewRegistry(), logs: logs}
	c := FrameConfig{
		Secrets: []string{frameSecret, frameSecretBare}, Recorder: d.recorder, Decode: testOptions(),
		Now: func() time.Time { return testNow }, Log: zap.New(core), Metrics: d.metrics,
	}
	for _, f := range change {
		f(&c)
	}
	f, err := NewFrame(c)
	require.NoError(t, err)
	e := echo.New()
	f.Register(e)
	server := httptest.NewUnstartedServer(e)
	ServerLimits(server.Config)
	server.Start()
	t.Cleanup(server.Close)
	d.url = server.URL + FramePath
	return d
}

func frameMAC(body []byte, secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// frameSigned posts body as Frame does.
func (d *door) frameSigned(t testing.TB, body []byte, headers ...string) reply {
	t.Helper()
	return d.post(t, body, "", append([]string{"X-Frame-Signature", "sha256=" + frameMAC(body, frameSecret), "User-Agent", "Frame-Robot v1.0.0"}, headers...)...)
}

func TestFrameTestVectors(t *testing.T) {
	t.Parallel()
	require.Len(t, frameVector, 256)
	for secret, mac := range map[string]string{frameSecret: frameVectorMAC, frameSecretBare: frameVectorMACToo} {
		for name, signature := range map[string]string{
			"as Frame sends it": "sha256=" + mac, "upper case": "sha256=" + strings.ToUpper(mac), "bare": mac,
			"bare upper case": strings.ToUpper(mac), "with space around": " \tsha256=" + mac + " ",
		} {
			d := openFrameDoor(t, func(c *FrameConfig) { c.Secrets = []string{secret} })
			got := d.post(t, []byte(frameVector), "", "X-Frame-Signature", signature)
			require.Equal(t, http.StatusOK, got.status, name)
			require.JSONEq(t, `{"received":true}`, got.body)
			require.Len(t, d.recorder.all(), 1)
			require.Equal(t, "insufficient_funds", d.recorder.all()[0].Facts[0].FailureCode)
		}
	}
	mac, ok := frameSignature("\t sha256=" + frameVectorMAC + " ") // net/http takes the space off by itself
	require.True(t, ok)
	require.Equal(t, frameVectorMAC, hex.EncodeToString(mac))
}

func TestTwoFrameSecretsAreValidAtOnce(t *testing.T) {
	t.Parallel()
	d := openFrameDoor(t)
	for _, mac := range []string{frameVectorMAC, frameVectorMACToo} {
		require.Equal(t, http.StatusOK, d.post(t, []byte(frameVector), "", "X-Frame-Signature", "sha256="+mac).status)
	}
	require.EqualValues(t, 1, d.count(t, "rebound_webhook_secret_used_total", "secret=1", "source=frame"))
	require.EqualValues(t, 1, d.count(t, "rebound_webhook_secret_used_total", "secret=2", "source=frame"))
}

func TestRefusedFrameRequestsGetOneConstantBody(t *testing.T) {
	t.Parallel()
	body := []byte(frameVector)
	d := openFrameDoor(t)
	mac := frameVectorMAC
	svix := strings.TrimPrefix(frameSecret, "whsec_")
	for name, signature := range map[string]string{
		"none": "", "empty": "sha256=", "no hex": "sha256=" + strings.Repeat("zz", 32), "cut short": "sha256=" + mac[:62], "an odd digit": "sha256=" + mac[:63],
		"one too many": "sha256=" + mac + "00", "another prefix": "sha512=" + mac, "upper case prefix": "SHA256=" + mac, "prefix twice": "sha256=sha256=" + mac,
		"prefix and space": "sha256= " + mac, "one bit off": "sha256=4" + mac[1:], "zeros": "sha256=" + strings.Repeat("0", 64),
		"two in one": "sha256=" + mac + ",sha256=" + mac, "another secret": "sha256=" + frameMAC(body, "whsec_another_secret_entirely"),
		"an empty secret": "sha256=" + frameMAC(body, ""), "the secret without its prefix": "sha256=" + frameMAC(body, svix),
		"another body": "sha256=" + frameMAC(append(body[:len(body):len(body)], '\n'), frameSecret), "a Stripe signature": sign(body, testNow, frameSecret),
	} {
		got := d.post(t, body, "", "X-Frame-Signature", signature)
		require.Equal(t, http.StatusBadRequest, got.status, name)
		require.Equal(t, string(bodyBad), got.body, name)
	}
	require.Empty(t, d.recorder.all())
	for _, line := range d.logs.All() {
		require.Equal(t, "webhook.refused", line.Message)
		require.NotContains(t, fmt.Sprint(line.ContextMap()), "evt_", "nothing unverified is believed")
		require.NotContains(t, fmt.Sprint(line.ContextMap()), "5dc963", "no signature in a log")
	}
	require.EqualValues(t, d.logs.Len(), d.count(t, "rebound_webhook_deliveries_total", "result=bad_signature", "source=frame", "type=none"))

	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusMethodNotAllowed, do(t, r).status)
}

func TestASignedFrameEventIsRecordedThenAnswered(t *testing.T) {
	t.Parallel()
	for _, body := range []string{frameCharge, frameTransfer, frameIntent, framePayout} {
		d := openFrameDoor(t)
		require.Equal(t, http.StatusOK, d.frameSigned(t, []byte(body)).status)
		want, out := decodeFrame(t, []byte(body))
		require.Equal(t, []handler.Delivery{want}, d.recorder.all())
		require.EqualValues(t, 1, d.count(t, "rebound_webhook_deliveries_total", "result=recorded", "source=frame", "type="+out.EventType))
		require.Equal(t, 1, d.logs.Len())
		fields := d.logs.All()[0].ContextMap()
		require.Equal(t, "webhook.received", d.logs.All()[0].Message)
		require.Equal(t, out.EventID, fields["event"])
		require.Equal(t, out.PaymentID, fields["payment"])
		require.NotContains(t, fields, "header_type")
		require.NotContains(t, fmt.Sprint(fields), "@", "no address in a log")
		require.NotContains(t, fmt.Sprint(fields), "SENTINEL")
		require.NotContains(t, fmt.Sprint(fields), "_secret_")
	}
}

func TestFrameHeadersBesideTheSignatureAreOnlyLogged(t *testing.T) {
	t.Parallel()
	d := openFrameDoor(t)
	want, _ := decodeFrame(t, []byte(frameCharge))
	require.Equal(t, http.StatusOK, d.frameSigned(t, []byte(frameCharge), "X-Frame-Event", "charge.failed", "X-Frame-Webhook-Id", "msg_1").status)
	require.Equal(t, http.StatusOK, d.frameSigned(t, []byte(frameCharge), "X-Frame-Event", "charge.succeeded", "X-Frame-Webhook-Id", "msg 2").status)
	require.Equal(t, http.StatusOK, d.frameSigned(t, []byte(frameCharge), "X-Frame-Event", strings.Repeat("x", 9000)).status)
	require.Equal(t, []handler.Delivery{want, want, want}, d.recorder.all(), "the body alone decides")
	lines := d.logs.All()
	require.Equal(t, "msg_1", lines[0].ContextMap()["delivery"])
	require.NotContains(t, lines[0].ContextMap(), "header_type")
	require.Equal(t, "msg_2", lines[1].ContextMap()["delivery"])
	require.Equal(t, "charge.succeeded", lines[1].ContextMap()["header_type"])
	require.Equal(t, "charge.failed", lines[1].ContextMap()["type"])
	require.Len(t, lines[2].ContextMap()["header_type"], maxCode)
}

func TestFrameBodiesThatAreNoEvent(t *testing.T) {
	t.Parallel()
	d := openFrameDoor(t)
	for _, body := range []string{"null", "{}", "[]", "", "hello", `"x"`, "0", frameCharge[:500], `{"id":"evt_1"}`, `{"id":null,"type":"charge.failed"}`} {
		got := d.frameSigned(t, []byte(body), "X-Frame-Event", "charge.failed", "X-Frame-Webhook-Id", "msg_1")
		require.Equal(t, http.StatusBadRequest, got.status, body)
		require.Equal(t, string(bodyBad), got.body)
	}
	require.Empty(t, d.recorder.all())
}

func TestFrameEventsThatGiveNothingAreAcceptedUnrecorded(t *testing.T) {
	t.Parallel()
	d := openFrameDoor(t, func(c *FrameConfig) {
		c.Recorder = &recorded{fail: func(context.Context) error { return errors.New("down") }}
	})
	for _, eventType := range []string{"charge.refunded", "customer.created", "a.type.of.tomorrow"} {
		require.Equal(t, http.StatusOK, d.frameSigned(t, with(t, frameCharge, "type", eventType)).status)
	}
	require.EqualValues(t, 3, d.count(t, "rebound_webhook_deliveries_total", "result=ignored", "source=frame", "type=other"))
}

func TestAFrameEventThatCannotBeUsedIsKeptAside(t *testing.T) {
	t.Parallel()
	d := openFrameDoor(t)
	require.Equal(t, http.StatusOK, d.frameSigned(t, []byte(`{"id":"evt_1","type":"transfer.failed","data":{"client_secret":"SENTINEL"}}`)).status)
	q := d.recorder.all()[0].Quarantine
	require.Equal(t, "no_object_id", q.Reason)
	require.NotContains(t, string(q.Body), "SENTINEL")
	require.Equal(t, 1, d.logs.FilterField(zap.String("reason", "no_object_id")).Len())
	require.Equal(t, zapcore.WarnLevel, d.logs.All()[0].Level)
}

func TestFrameMisfitsAndMaskedNumbersAreCounted(t *testing.T) {
	t.Parallel()
	d := openFrameDoor(t)
	require.Equal(t, 200, d.frameSigned(t, with(t, frameCharge, "data.amount", "many")).status)
	require.Equal(t, 200, d.frameSigned(t, with(t, frameCharge, "data.failure_message", "4242424242424242")).status)
	require.EqualValues(t, 1, d.count(t, "rebound_misfit_fields_total", "field=amount", "source=frame"))
	require.EqualValues(t, 1, d.count(t, "rebound_masked_card_numbers_total", "source=frame"))
	require.NotContains(t, fmt.Sprint(d.logs.All()), "4242424242424242")
}

func TestFrameBodiesOverTheLimitOrEncodedAreRefused(t *testing.T) {
	t.Parallel()
	d := openFrameDoor(t)
	fits := append([]byte(frameCharge), bytes.Repeat([]byte(" "), DefaultBodyLimit-len(frameCharge))...)
	require.Equal(t, http.StatusOK, d.frameSigned(t, fits).status, "the limit itself fits")
	over := append(fits, ' ')
	require.Equal(t, http.StatusRequestEntityTooLarge, d.frameSigned(t, over).status)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url, io.MultiReader(bytes.NewReader(over)))
	require.NoError(t, err) // chunked: no length is announced
	r.Header.Set("X-Frame-Signature", "sha256="+frameMAC(over, frameSecret))
	require.Equal(t, http.StatusRequestEntityTooLarge, do(t, r).status)

	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err = z.Write([]byte(frameCharge))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	require.Equal(t, http.StatusUnsupportedMediaType, d.frameSigned(t, packed.Bytes(), "Content-Encoding", "gzip").status)
	require.Len(t, d.recorder.all(), 1)

	small := openFrameDoor(t, func(c *FrameConfig) { c.BodyLimit = 100 })
	require.Equal(t, http.StatusRequestEntityTooLarge, small.frameSigned(t, []byte(frameCharge)).status)
}

func TestAFailingStoreIsAnswered503ToFrame(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]error{"busy": handler.ErrBusy, "storage_failed": errors.New("connection refused"), "storage_slow": context.DeadlineExceeded} {
		recorder := &recorded{fail: func(context.Context) error { return fmt.Errorf("recording: %w", fail) }}
		d := openFrameDoor(t, func(c *FrameConfig) { c.Recorder = recorder })
		got := d.frameSigned(t, []byte(frameTransfer))
		require.Equal(t, http.StatusServiceUnavailable, got.status)
		require.Equal(t, "5", got.header.Get("Retry-After"))
		require.EqualValues(t, 1, d.count(t, "rebound_webhook_deliveries_total", "result="+name, "source=frame", "type=transfer.failed"))
		recorder.fail = nil
		require.Equal(t, http.StatusOK, d.frameSigned(t, []byte(frameTransfer)).status, "it recovers by itself")
	}
}

func TestOldFrameEventsAreTaken(t *testing.T) {
	t.Parallel()
	d := openFrameDoor(t)
	old := with(t, frameCharge, "created", testNow.AddDate(-3, 0, 0).Unix())
	require.Equal(t, http.StatusOK, d.frameSigned(t, old).status, "they are sent again on request")
	require.Equal(t, http.StatusOK, d.frameSigned(t, old).status)
	all := d.recorder.all()
	require.Len(t, all, 2)
	require.Equal(t, all[0], all[1], "a replay is the same fact again, and its event id is stored")
}

func TestTheEndpointsModeStandsInForAFrameEvents(t *testing.T) {
	t.Parallel()
	body := parse(t, frameVector)
	delete(body, "livemode")
	for _, mode := range []bool{false, true} {
		d := openFrameDoor(t, func(c *FrameConfig) { c.Livemode = mode })
		require.Equal(t, http.StatusOK, d.frameSigned(t, render(t, body)).status)
		require.Equal(t, mode, d.recorder.all()[0].Facts[0].Livemode)
	}
}

func TestUnsafeFrameSecretsAreRefused(t *testing.T) {
	t.Parallel()
	for _, secrets := range [][]string{nil, {}, {""}, {frameSecret, ""}, {"whsec_short"}, {strings.Repeat(" ", 30)}, {frameSecret + "\n"}} {
		_, err := NewFrame(FrameConfig{Secrets: secrets, Recorder: &recorded{}})
		require.Error(t, err)
		require.NotContains(t, err.Error(), "whsec_")
	}
	_, err := NewFrame(FrameConfig{Secrets: []string{frameSecret}})
	require.Error(t, err, "a recorder is needed")
	_, err = NewFrame(FrameConfig{Secrets: []string{frameSecret}, Recorder: &recorded{}, BodyLimit: -1})
	require.Error(t, err)
	none := &Frame{} // not to be had, but it would refuse all the same
	_, fault := none.verify([]byte("x"), http.Header{"X-Frame-Signature": {"sha256=" + frameMAC([]byte("x"), "")}})
	require.Equal(t, "bad_signature", fault)
}

func TestFrameAndStripeShareOneSetOfMetrics(t *testing.T) {
	t.Parallel()
	d := openFrameDoor(t)
	_, err := NewStripe(StripeConfig{Secrets: []string{testSecret}, Recorder: &recorded{}, Metrics: d.metrics})
	require.NoError(t, err)
}
