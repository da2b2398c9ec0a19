package console

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"rebound/store"
)

// The values that filters take.
var (
	categories = []string{
		"authentication_required", "insufficient_funds", "data_error", "card_state", "fraud_risk", "issuer_unknown", "processing_error",
		"test_mode", "mandate", "bank_account", "customer_abandoned", "limit", "integration_error",
	}
	statuses = []string{"failing", "pending", "recovered", "canceled"}
	sources  = []string{"stripe", "frame"}
)

// failureParams are the parameters of the list of failures, in the order in which they are described.
var failureParams = []string{
	"payment_id", "charge", "customer", "category", "status", "source", "created[gte]", "created[lt]", "account", "livemode",
	"locale", "limit", "starting_after",
}

func (s *server) failureFilter(c echo.Context, p *params) store.FailureFilter {
	return store.FailureFilter{
		Within:    s.within(c, p),
		PaymentID: p.text("payment_id"), Charge: p.text("charge"), Customer: p.text("customer"),
		Category: p.oneOf("category", categories), Status: p.oneOf("status", statuses), Source: p.oneOf("source", sources),
		From: p.seconds("created[gte]"), Before: p.seconds("created[lt]"),
		After: p.text("starting_after"), Limit: p.limit(),
	}
}

func (s *server) listFailures(c echo.Context) error {
	p := query(c, failureParams...)
	filter, locale := s.failureFilter(c, p), p.text("locale")
	if err := p.done(); err != nil {
		return err
	}
	page, more, err := s.failures(c.Request().Context(), filter)
	if err != nil {
		return err
	}
	data := make([]failureJSON, len(page))
	for i := range page {
		data[i] = s.failureOf(page[i], locale)
	}
	return c.JSON(http.StatusOK, listOf(data, more))
}

// failures reads a page of failures, each with what was told of it and with what holds for a retry at this moment.
func (s *server) failures(ctx context.Context, filter store.FailureFilter) (page []store.Failure, more bool, err error) {
	if page, more, err = s.Store.FailurePage(ctx, filter); err != nil {
		return nil, false, cursorFault(err)
	}
	now := s.Now()
	uses, err := s.Store.Complete(ctx, page, now)
	if err != nil {
		return nil, false, err
	}
	for i := range page {
		s.decide(&page[i].Attempt, uses(i), now)
	}
	return page, more, nil
}

// cursorFault words a cursor that names nothing.
func cursorFault(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return badParam("starting_after", "names no object of this list.")
	}
	return err
}

func (s *server) getFailure(c echo.Context) error {
	p := query(c, "locale")
	locale := p.text("locale")
	if err := p.done(); err != nil {
		return err
	}
	id, err := pathID(c, "id")
	if err != nil {
		return err
	}
	f, err := s.Store.FindFailure(c.Request().Context(), id, s.within(c, p))
	if err != nil {
		return err
	}
	one := []store.Failure{f}
	if _, err := s.advise(c.Request().Context(), one); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, s.failureOf(one[0], locale))
}

func (s *server) payment(c echo.Context, p *params) (store.PaymentHistory, error) {
	w, source := s.within(c, p), p.oneOf("source", sources)
	if err := p.done(); err != nil {
		return store.PaymentHistory{}, err
	}
	id, err := pathID(c, "payment_id")
	if err != nil {
		return store.PaymentHistory{}, err
	}
	return s.Store.FindPayment(c.Request().Context(), id, source, w)
}

func (s *server) getPayment(c echo.Context) error {
	p := query(c, "source", "account", "livemode", "locale")
	locale := p.text("locale")
	h, err := s.payment(c, p)
	if err != nil {
		return err
	}
	if _, err := s.advise(c.Request().Context(), h.Attempts); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, s.paymentOf(h, locale))
}

func (s *server) getRetryDecision(c echo.Context) error {
	h, err := s.payment(c, query(c, "source", "account", "livemode"))
	if err != nil {
		return err
	}
	decision, err := s.retryDecision(c.Request().Context(), h)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, decision)
}

func (s *server) listInbox(c echo.Context) error {
	p := query(c, "source", "unread", "account", "livemode", "locale", "limit", "starting_after")
	filter := store.InboxFilter{Within: s.within(c, p), Source: p.oneOf("source", sources), After: p.text("starting_after"), Limit: p.limit()}
	if unread := p.flag("unread"); unread != nil {
		filter.Unread = *unread
	}
	locale := p.text("locale")
	if err := p.done(); err != nil {
		return err
	}
	var err error
	if filter.Customer, err = pathID(c, "customer"); err != nil {
		return err
	}
	page, more, err := s.Store.InboxPage(c.Request().Context(), filter)
	if err != nil {
		return cursorFault(err)
	}
	data := make([]noticeJSON, len(page))
	for i, n := range page {
		data[i] = s.noticeOf(n, locale)
	}
	return c.JSON(http.StatusOK, listOf(data, more))
}

func (s *server) readNotice(c echo.Context) error {
	p := query(c, "locale")
	locale := p.text("locale")
	if err := p.done(); err != nil {
		return err
	}
	id, err := pathID(c, "id")
	if err != nil {
		return err
	}
	n, err := s.Store.MarkNoticeRead(c.Request().Context(), id, s.within(c, p))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, s.noticeOf(n, locale))
}

func (s *server) putContact(c echo.Context) error {
	p := query(c, "source", "account", "livemode")
	key := store.CustomerKey{Source: p.oneOf("source", sources), Livemode: s.Livemode}
	if key.Source == "" {
		key.Source = "stripe"
	}
	if mode := p.flag("livemode"); mode != nil {
		key.Livemode = *mode
	}
	asked := p.account()
	if err := p.done(); err != nil {
		return err
	}
	id, err := pathID(c, "customer")
	if err != nil {
		return err
	}
	key.CustomerID = id
	who := principalOf(c)
	switch {
	case who.account != "" && asked != nil && *asked != who.account:
		return errNotFound
	case who.account != "":
		key.Account = who.account
	case asked != nil:
		if *asked != "" && !plainID(*asked) {
			return badParam("account", "is no account id.")
		}
		key.Account = *asked
	}
	contact, err := s.readContact(c.Response(), c.Request())
	if err != nil {
		return err
	}
	if err := s.Store.PutContact(c.Request().Context(), key, contact.Email, contact.Locale, contact.TimeZone); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, contactJSON{Object: "contact", Customer: id, Source: key.Source, Account: text(key.Account), Livemode: key.Livemode,
		Email: text(contact.Email), Locale: text(contact.Locale), TimeZone: text(contact.TimeZone)})
}

// contactJSON repeats what was just said; it is never read back from the store.
type contactJSON struct {
	Object   string  `json:"object"`
	Customer string  `json:"customer"`
	Source   string  `json:"source"`
	Account  *string `json:"account"`
	Livemode bool    `json:"livemode"`
	Email    *string `json:"email"`
	Locale   *string `json:"locale"`
	TimeZone *string `json:"time_zone"`
}

// isJSON tells whether a Content-Type is JSON; none at all is taken as JSON.
func isJSON(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	return kind == "" || kind == "application/json" || strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json")
}
