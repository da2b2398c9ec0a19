package main

import (
	"context"
	"strings"
	"time"

	"rebound/notify"
	"rebound/notify/email"
)

// mailer writes and sends the letters of package notify by package email.
type mailer struct {
	sender    *email.Sender
	publicURL string
	own       email.Profile
	accounts  map[string]email.Profile // by acct_…
}

func newMailer(c *config) (*mailer, error) {
	sender, err := email.NewSender(c.SMTPURL, email.Options{})
	if err != nil {
		return nil, err
	}
	m := &mailer{
		sender: sender, publicURL: c.PublicURL, accounts: map[string]email.Profile{},
		own: email.Profile{
			MerchantName: c.MerchantName, MerchantURL: c.MerchantURL, SupportEmail: c.SupportEmail,
			From: c.from, ReplyTo: c.replyTo,
		},
	}
	for account, p := range c.profiles {
		m.accounts[account] = email.Profile{
			MerchantName: p.MerchantName, MerchantURL: p.MerchantURL, SupportEmail: p.SupportEmail,
			From: p.from, ReplyTo: p.replyTo,
		}
	}
	return m, nil
}

// Deliver writes a letter in the name of its account and sends it.
func (m *mailer) Deliver(ctx context.Context, l notify.Letter) notify.Outcome {
	profile := m.own
	if l.Account != "" {
		own, known := m.accounts[l.Account]
		if !known {
			return notify.Outcome{Result: notify.RejectedMail, Reason: "the account has no profile"}
		}
		profile = own
	}
	kind := email.First
	if l.Template != "first" {
		kind = email.Reminder
	}
	message, err := email.Render(email.Mail{
		To: l.To, Locale: l.Locale, Kind: kind, Public: l.Public, Amount: l.Amount, Currency: l.Currency, Link: l.Link,
		// One token serves both pages of a mail.
		UnsubscribeURL: strings.Replace(l.Link, m.publicURL+"/pay/", m.publicURL+"/unsubscribe/", 1),
		MessageID:      l.MessageID, Date: l.Date, Profile: profile,
	})
	if err != nil {
		return notify.Outcome{Result: notify.RejectedMail, Reason: err.Error()} // it holds no address
	}
	out := m.sender.Send(ctx, message, l.BeforeDot)
	return notify.Outcome{Result: out.Result, Code: out.Code, Reason: out.Reason}
}

// Mailbox checks an address and normalises it for limits.
func (m *mailer) Mailbox(address string) (string, bool) { return mailboxOf(address) }

// MaxDuration is how long Deliver may take.
func (m *mailer) MaxDuration() time.Duration { return m.sender.MaxDuration() }
