package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"rebound/handler"
)

// FramePath is where Frame posts to.
const FramePath = "/webhooks/frame"

// FrameConfig is what a Frame endpoint needs. Secrets and Recorder are required.
type FrameConfig struct {
	// Secrets are the signing secrets, all valid at once, each of at least MinSecretBytes. They are used byte for byte, with
	// the prefix whsec_ if they have it. Rotating a secret kills the old one at once, so the safe way is a second endpoint
	// at Frame, and both secrets here.
	Secrets   []string
	BodyLimit int64 // bytes; 0 means DefaultBodyLimit
	Recorder  Recorder
	Decode    DecodeOptions
	// Livemode stands in for an event that does not say its mode anywhere. An endpoint at Frame gets the events of one mode
	// only, so this is the mode that the secrets belong to. The zero value is the safe one: test events reach nobody.
	Livemode bool
	Now      func() time.Time      // nil means time.Now
	Log      *zap.Logger           // nil means none
	Metrics  prometheus.Registerer // nil means none
}

// Frame is the endpoint that Frame posts its events to. Its signatures carry no time, and Frame delivers old events again
// on request, so no age is refused: a replay finds its event id stored.
type Frame struct {
	endpoint
	secrets  [][]byte
	decode   DecodeOptions
	livemode bool
}

// NewFrame returns an endpoint, or the reason why it would not be safe: without a secret, or with an empty one, anybody
// could sign.
func NewFrame(c FrameConfig) (*Frame, error) {
	f := &Frame{decode: c.Decode, livemode: c.Livemode}
	var err error
	f.endpoint, err = endpoint{
		source: sourceFrame, provider: f, bodyLimit: c.BodyLimit, recorder: c.Recorder, now: c.Now, log: c.Log,
	}.ready(c.Secrets, c.Metrics)
	if err != nil {
		return nil, err
	}
	for _, s := range c.Secrets {
		f.secrets = append(f.secrets, []byte(s))
	}
	if f.decode.Now == nil {
		f.decode.Now = f.now
	}
	return f, nil
}

// Register mounts the endpoint on e.
func (f *Frame) Register(e *echo.Echo) { e.POST(FramePath, f.serve) }

func (f *Frame) read(body []byte) (handler.Delivery, Outcome, error) {
	return DecodeFrame(body, f.decode, f.livemode)
}

func (f *Frame) listed(eventType string) bool {
	_, used := frameTypes[eventType]
	return used
}

// remarks names the message that brought the event and, where it differs, the type that its header claims. Headers are
// not signed, so both are for people who trace a delivery, and nothing rests on them.
func (f *Frame) remarks(h http.Header, o Outcome) []zap.Field {
	var fields []zap.Field
	if id, _ := safeID(h.Get("X-Frame-Webhook-Id")); id != "" {
		fields = append(fields, zap.String("delivery", id))
	}
	if claimed := h.Get("X-Frame-Event"); claimed != "" && claimed != o.EventType {
		claimed, _ = safeText(claimed, maxCode)
		fields = append(fields, zap.String("header_type", claimed))
	}
	return fields
}

// verify compares the signature with that of every secret, in constant time.
func (f *Frame) verify(body []byte, h http.Header) (secret int, fault string) {
	got, ok := frameSignature(h.Get("X-Frame-Signature"))
	secret = -1
	for i, key := range f.secrets {
		mac := hmac.New(sha256.New, key)
		mac.Write(body)
		if hmac.Equal(mac.Sum(nil), got) && ok && secret < 0 {
			secret = i
		}
	}
	if secret < 0 {
		return -1, "bad_signature"
	}
	return secret, ""
}

// frameSignature reads a signature: 64 hex digits behind "sha256=", or, as one page of Frame's describes it, alone.
func frameSignature(header string) (mac []byte, ok bool) {
	digits := strings.TrimPrefix(strings.TrimSpace(header), "sha256=")
	if len(digits) != hex.EncodedLen(sha256.Size) {
		return nil, false
	}
	mac, err := hex.DecodeString(digits)
	return mac, err == nil
}
