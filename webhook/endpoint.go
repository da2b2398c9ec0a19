package webhook

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"rebound/handler"
)

// Defaults and limits of an endpoint.
const (
	DefaultBodyLimit = 256 << 10
	// MinSecretBytes is the shortest signing secret that is taken: an empty or guessable one would let anybody sign.
	MinSecretBytes = 24
	// recordTimeout leaves a second of the five within which an unstored delivery is refused.
	recordTimeout = 4 * time.Second
	// retryAfter asks a sender that could not be served to wait; providers keep their own schedules all the same.
	retryAfter = 5 * time.Second
	// maxReceiving bounds the bytes of all bodies that one endpoint is reading, and of those that wait to be kept aside:
	// anybody can send bodies, and send them slowly. It is some ten thousand usual events.
	maxReceiving = 64 << 20
)

// provider is what an endpoint must be told of whoever posts to it.
type provider interface {
	// verify says which secret, by its place, signed body; the fault is empty or a metric's label.
	verify(body []byte, header http.Header) (secret int, fault string)
	read(body []byte) (handler.Delivery, Outcome, error)
	// listed says that a type is one of a fixed set, and so fit for a metric's label.
	listed(eventType string) bool
	// remarks are what the log line of a verified event says besides.
	remarks(header http.Header, o Outcome) []zap.Field
}

// endpoint takes the requests of one provider: it bounds, verifies, decodes, hands over, and answers.
type endpoint struct {
	source    string
	provider  provider
	bodyLimit int64         // bytes
	receiving *atomic.Int64 // bytes, see maxReceiving
	recorder  Recorder
	now       func() time.Time
	log       *zap.Logger
	metrics   *metrics
}

// ready fills in the defaults, or returns the reason why e would not be safe: without a secret, or with an empty one,
// anybody could sign.
func (e endpoint) ready(secrets []string, reg prometheus.Registerer) (endpoint, error) {
	if err := checkSecrets(secrets); err != nil {
		return e, err
	}
	if e.recorder == nil {
		return e, errors.New("a webhook endpoint needs a recorder")
	}
	if e.bodyLimit < 0 {
		return e, errors.New("the body limit of a webhook endpoint cannot be negative")
	}
	var err error
	if e.metrics, err = newMetrics(reg); err != nil {
		return e, fmt.Errorf("registering the webhook metrics: %w", err)
	}
	e.bodyLimit = cmp.Or(e.bodyLimit, int64(DefaultBodyLimit))
	e.receiving = new(atomic.Int64)
	if e.now == nil {
		e.now = time.Now
	}
	if e.log == nil {
		e.log = zap.NewNop()
	}
	e.log = e.log.WithOptions(zap.WrapCore(sampled))
	return e, nil
}

// sampled keeps a flood of requests from becoming a flood of lines: a line is a system call.
func sampled(core zapcore.Core) zapcore.Core {
	return zapcore.NewSamplerWithOptions(core, time.Second, 200, 100)
}

func checkSecrets(secrets []string) error {
	if len(secrets) == 0 {
		return errors.New("a webhook endpoint needs at least one signing secret")
	}
	for i, s := range secrets {
		if len(s) < MinSecretBytes || strings.TrimSpace(s) != s {
			return fmt.Errorf("signing secret %d of %d is not one: it must have at least %d bytes and no space around it", i+1, len(secrets), MinSecretBytes)
		}
	}
	return nil
}

// The answers. A refused request learns nothing from its answer: one body for every reason.
var (
	bodyOK          = []byte(`{"received":true}` + "\n")
	bodyBad         = []byte(`{"error":"bad_request"}` + "\n")
	bodyTooLarge    = []byte(`{"error":"body_too_large"}` + "\n")
	bodyEncoded     = []byte(`{"error":"content_encoding_not_supported"}` + "\n")
	bodyUnavailable = []byte(`{"error":"try_again_later"}` + "\n")
)

// result is what became of one request: for the answer, the log line and the metric.
type result struct {
	status  int
	body    []byte
	name    string // a metric's label
	secret  int    // place of the secret that verified it; -1: none
	out     Outcome
	remarks []zap.Field
	err     error // of the storage
}

func (e *endpoint) serve(c echo.Context) error {
	start := e.now()
	res := e.receive(c.Response(), c.Request())
	e.report(res, e.now().Sub(start))
	if res.status == http.StatusServiceUnavailable {
		c.Response().Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	}
	return c.Blob(res.status, echo.MIMEApplicationJSON, res.body)
}

func (e *endpoint) receive(w http.ResponseWriter, r *http.Request) result {
	d, res := e.admit(w, r)
	if res.status != http.StatusOK || res.out.Use == Ignored {
		return res
	}
	if d.Quarantine != nil {
		size := int64(len(d.Quarantine.Body))
		e.receiving.Add(size)
		defer e.receiving.Add(-size)
	}
	// A sender that hangs up has still sent: what it brought is stored, and its next attempt finds it there.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), recordTimeout)
	defer cancel()
	if err := e.recorder.Record(ctx, d); err != nil {
		res.status, res.body, res.name, res.err = http.StatusServiceUnavailable, bodyUnavailable, "storage_failed", err
		switch {
		case errors.Is(err, handler.ErrBusy):
			res.name = "busy"
		case errors.Is(err, context.DeadlineExceeded):
			res.name = "storage_slow"
		}
	}
	return res
}

// admit reads, verifies and decodes. The body is given back before what it says waits for its commit: thousands may wait.
func (e *endpoint) admit(w http.ResponseWriter, r *http.Request) (handler.Delivery, result) {
	refuse := func(status int, body []byte, name string) (handler.Delivery, result) {
		return handler.Delivery{}, result{status: status, body: body, name: name, secret: -1}
	}
	if len(r.Header.Values("Content-Encoding")) > 0 {
		return refuse(http.StatusUnsupportedMediaType, bodyEncoded, "encoded")
	}
	buf := bodies.Get().(*bytes.Buffer)
	defer recycle(buf)
	counted := &countedBody{body: r.Body, all: e.receiving}
	defer counted.free()
	switch err := readBody(buf, counted, w, r.ContentLength, e.bodyLimit); {
	case errors.Is(err, errBodyTooLarge):
		return refuse(http.StatusRequestEntityTooLarge, bodyTooLarge, "too_large")
	case errors.Is(err, handler.ErrBusy):
		w.Header().Set("Connection", "close") // else the answer waits for the rest of the body
		return refuse(http.StatusServiceUnavailable, bodyUnavailable, "busy")
	case err != nil:
		return refuse(http.StatusBadRequest, bodyBad, "body_unread")
	}

	secret, fault := e.provider.verify(buf.Bytes(), r.Header)
	if fault != "" {
		return refuse(http.StatusBadRequest, bodyBad, fault)
	}
	d, out, err := e.provider.read(buf.Bytes())
	if err != nil {
		return d, result{status: http.StatusBadRequest, body: bodyBad, name: "unreadable", secret: secret}
	}
	e.metrics.decoded(e.source, secret, out)
	return d, result{http.StatusOK, bodyOK, string(out.Use), secret, out, e.provider.remarks(r.Header, out), nil}
}

// report writes one wide line and counts. Nothing in it is private: ids, names and numbers only.
func (e *endpoint) report(res result, took time.Duration) {
	kind := "none" // nothing was verified, so nothing is believed
	if res.out.EventType != "" {
		kind = "other"
		if e.provider.listed(res.out.EventType) {
			kind = res.out.EventType
		}
	}
	e.metrics.deliveries.WithLabelValues(e.source, kind, res.name).Inc()
	e.metrics.duration.WithLabelValues(e.source).Observe(took.Seconds())

	level, message := zapcore.InfoLevel, "webhook.received"
	switch {
	case res.err != nil:
		level = zapcore.ErrorLevel
	case res.out.Use == Quarantined:
		level = zapcore.WarnLevel
	case res.status != http.StatusOK:
		message = "webhook.refused"
	}
	line := e.log.Check(level, message)
	if line == nil {
		return
	}
	fields := []zap.Field{
		zap.String("source", e.source), zap.String("result", res.name), zap.Int("status", res.status),
		zap.Duration("duration", took),
	}
	if o := res.out; o.EventID != "" {
		fields = append(fields,
			zap.String("event", o.EventID), zap.String("type", o.EventType), zap.String("api_version", o.APIVersion),
			zap.String("account", o.Account), zap.Bool("livemode", o.Livemode), zap.Int64("created", o.Created),
			zap.String("object", o.ObjectID), zap.String("payment", o.PaymentID), zap.Int("secret", res.secret+1))
		if o.Reason != "" {
			fields = append(fields, zap.String("reason", o.Reason))
		}
		if len(o.Misfits) > 0 {
			fields = append(fields, zap.Strings("misfits", o.Misfits[:min(len(o.Misfits), 10)]))
		}
		fields = append(fields, res.remarks...)
	}
	if res.err != nil {
		fields = append(fields, zap.Error(res.err))
	}
	line.Write(fields...)
}

// bodies are reused: a buffer per request would be most of what an event costs in memory.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// recycle keeps buffers of usual size; events have 3 to 30 KB.
func recycle(buf *bytes.Buffer) {
	if buf.Cap() <= 64<<10 {
		buf.Reset()
		bodies.Put(buf)
	}
}

var errBodyTooLarge = errors.New("the body is over the limit")

// maxDrain is how much of a body over the limit is still read, and thrown away, so that its sender gets to read the
// answer instead of a broken connection.
const maxDrain = 4 << 20

// countedBody counts what was read of a body among all that is held, and ends it with handler.ErrBusy where that is too
// much.
type countedBody struct {
	body io.Reader
	all  *atomic.Int64
	own  int64
}

func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	c.own += int64(n)
	if c.all.Add(int64(n)) > maxReceiving {
		return n, handler.ErrBusy
	}
	return n, err
}

func (c *countedBody) free() { c.all.Add(-c.own) }

// readBody reads the whole body as it was sent, which is what is signed, or says that it is over limit bytes. It makes
// room as bytes come: how long a body will be is anybody's claim.
func readBody(buf *bytes.Buffer, body *countedBody, w http.ResponseWriter, length, limit int64) error {
	if length <= limit {
		n, err := io.Copy(buf, io.LimitReader(body, limit+1))
		if err != nil || n <= limit {
			return err
		}
	}
	if n, err := io.CopyN(io.Discard, body.body, maxDrain); err == nil && n == maxDrain {
		w.Header().Set("Connection", "close")
	}
	return errBodyTooLarge
}
