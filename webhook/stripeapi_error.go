package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
)

// APIError is a call to a provider's API that brought nothing.
type APIError struct {
	Call      string        // what was asked for, e.g. customer cus_1
	Status    int           // HTTP status; 0 if there was no answer, or none that can be read
	Code      string        // the provider's error code, if it gave one
	RequestID string        // for the provider's support
	After     time.Duration // how long to wait at least; 0: the API does not say
	Cause     error         // what happened instead of an answer
}

// Error tells what was asked and what came of it. It holds nothing of the answer's body but the error's code.
func (e *APIError) Error() string {
	if e.Status == 0 {
		return fmt.Sprintf("asking the API for %s: %v", e.Call, e.Cause)
	}
	s := fmt.Sprintf("asking the API for %s: status %d", e.Call, e.Status)
	if e.Code != "" {
		s += " " + e.Code
	}
	if e.RequestID != "" {
		s += " (" + e.RequestID + ")"
	}
	return s
}

// Unwrap returns the cause, if there is one.
func (e *APIError) Unwrap() error { return e.Cause }

// ErrOtherMode means that the API's answer belongs to the other mode (live or test) than the question.
var ErrOtherMode = errors.New("the object found is of the other mode")

// Retryable says whether the same call may bring something later: after 429 (with back-off), 409, 424, a server error,
// or no answer at all. Other refusals stay as they are (Stripe's API reference, Errors: 400 to 404 mean that the request,
// the key or the object is wrong).
func Retryable(err error) bool {
	e, ok := errors.AsType[*APIError](err)
	if !ok {
		return err != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled))
	}
	switch e.Status {
	case 0:
		return !errors.Is(e.Cause, ErrOtherMode)
	case http.StatusConflict, http.StatusFailedDependency, http.StatusTooManyRequests:
		return true
	}
	return e.Status >= 500
}

// RetryAfter says how long to wait at least before the next try; 0 leaves it to the caller's own back-off.
func RetryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*APIError](err); ok {
		return e.After
	}
	return 0
}

// maxRetryAfter bounds what an answer can make us wait.
const maxRetryAfter = time.Hour

// maxAnswer bounds an answer that is read, in bytes.
const maxAnswer = 1 << 20

var errUnreadableAnswer = errors.New("the answer cannot be read")

// answers turns every answer but a 2xx into an *APIError before stripe-go sees it: its own errors quote the body, lose
// the status where the body is not JSON, and do not give Retry-After.
type answers struct{ next http.RoundTripper }

// RoundTrip does one call.
func (t answers) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	res.Body = limitedBody{io.LimitReader(res.Body, maxAnswer), res.Body}
	if res.StatusCode >= 200 && res.StatusCode <= 299 {
		return res, nil
	}
	defer func() { _ = res.Body.Close() }()
	body, _ := io.ReadAll(res.Body) // the status says enough
	e := &APIError{Status: res.StatusCode, RequestID: res.Header.Get("Request-Id")}
	e.RequestID, _ = safeID(e.RequestID)
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 {
		e.After = min(time.Duration(s)*time.Second, maxRetryAfter)
	}
	rd := newReader(body)
	defer rd.release()
	rd.object("", func(member []byte) {
		if string(member) != "error" {
			rd.skip()
			return
		}
		rd.object("", func(member []byte) {
			if string(member) == "code" {
				rd.text("", maxCode, &e.Code)
			} else {
				rd.skip()
			}
		})
	})
	return nil, e
}

type limitedBody struct {
	io.Reader
	io.Closer
}

// asAPIError gives every failed call the same type.
func asAPIError(err error, call string, breaker circuitbreaker.CircuitBreaker[[]byte]) error {
	if errors.Is(err, circuitbreaker.ErrOpen) {
		return &APIError{Call: call, After: breaker.RemainingDelay(), Cause: err}
	}
	if e, ok := errors.AsType[*APIError](err); ok {
		e.Call = call
		return e
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // its own words quote the URL, which names the customer
	}
	return &APIError{Call: call, Cause: err}
}
