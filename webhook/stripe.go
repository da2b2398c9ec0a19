package webhook

import (
	"cmp"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	stripewebhook "github.com/stripe/stripe-go/v79/webhook"
	"go.uber.org/zap"

	"rebound/handler"
)

// StripePath is where Stripe posts to.
const StripePath = "/webhooks/stripe"

// StripeConfig is what a Stripe endpoint needs. Secrets and Recorder are required.
type StripeConfig struct {
	Secrets   []string      // signing secrets (whsec_…), all valid at once, each of at least MinSecretBytes
	Tolerance time.Duration // how far a signature's time may be off, to either side; 0 means 300 s
	BodyLimit int64         // bytes; 0 means DefaultBodyLimit
	Recorder  Recorder
	Decode    DecodeOptions
	Now       func() time.Time      // nil means time.Now
	Log       *zap.Logger           // nil means none
	Metrics   prometheus.Registerer // nil means none
}

// Stripe is the endpoint that Stripe posts its events to.
type Stripe struct {
	endpoint
	secrets   []string
	tolerance time.Duration
	decode    DecodeOptions
}

// NewStripe returns an endpoint, or the reason why it would not be safe: without a secret, or with an empty one, anybody
// could sign.
func NewStripe(c StripeConfig) (*Stripe, error) {
	if c.Tolerance < 0 {
		return nil, errors.New("the tolerance of a Stripe endpoint cannot be negative")
	}
	s := &Stripe{secrets: c.Secrets, tolerance: cmp.Or(c.Tolerance, 300*time.Second), decode: c.Decode}
	var err error
	s.endpoint, err = endpoint{
		source: sourceStripe, provider: s, bodyLimit: c.BodyLimit, recorder: c.Recorder, now: c.Now, log: c.Log,
	}.ready(c.Secrets, c.Metrics)
	if err != nil {
		return nil, err
	}
	if s.decode.Now == nil {
		s.decode.Now = s.now
	}
	return s, nil
}

// Register mounts the endpoint on e.
func (s *Stripe) Register(e *echo.Echo) { e.POST(StripePath, s.serve) }

func (s *Stripe) read(body []byte) (handler.Delivery, Outcome, error) {
	return DecodeStripe(body, s.decode)
}

func (s *Stripe) listed(eventType string) bool {
	_, used := stripeTypes[eventType]
	return used
}

func (s *Stripe) remarks(http.Header, Outcome) []zap.Field { return nil }

// verify checks the signature of body against every secret, whichever fits, and its time against our clock. stripe-go
// reads the wall clock itself and bounds only the past, so the time is compared here, on both sides.
func (s *Stripe) verify(body []byte, h http.Header) (secret int, fault string) {
	header := h.Get("Stripe-Signature")
	signed, ok := signatureTime(header)
	if !ok {
		return -1, "bad_signature"
	}
	if age := s.now().Sub(signed); age > s.tolerance {
		return -1, "stale_signature"
	} else if age < -s.tolerance {
		return -1, "future_signature"
	}
	secret = -1
	for i, key := range s.secrets {
		if stripewebhook.ValidatePayloadIgnoringTolerance(body, header, key) == nil && secret < 0 {
			secret = i
		}
	}
	if secret < 0 {
		return -1, "bad_signature"
	}
	return secret, ""
}

// signatureTime reads t from a Stripe-Signature header. Two of them are refused: stripe-go verifies the last, and a
// replayed request could put a fresh one before it.
func signatureTime(header string) (time.Time, bool) {
	var t int64
	found := false
	for part := range strings.SplitSeq(header, ",") {
		value, isTime := strings.CutPrefix(part, "t=")
		if !isTime {
			continue
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < 0 || n > maxTime || found {
			return time.Time{}, false
		}
		t, found = n, true
	}
	return time.Unix(t, 0), found
}
