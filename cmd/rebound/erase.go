package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.uber.org/zap"

	"rebound/notify/email"
	"rebound/store"
)

type eraseCommand struct {
	Customer   string `xor:"who" required:"" placeholder:"ID" help:"The customer's id at the provider."`
	Email      string `xor:"who" required:"" placeholder:"ADDRESS" help:"An address; whoever was or could be written to at its mailbox."`
	NoDownload bool   `help:"Never fetch Postgres when there is none."`
}

// Run erases and says how much there was. Whom it erased is in no output and no log.
func (e *eraseCommand) Run(ctx context.Context, p *program) error {
	c, err := loadConfig(p.environ, forStore)
	if err != nil {
		return err
	}
	erasure := store.Erasure{Customer: strings.TrimSpace(e.Customer), Normalise: mailboxOf}
	var ok bool
	switch address := strings.TrimSpace(e.Email); {
	case address != "":
		if erasure.Mailbox, ok = mailboxOf(address); !ok {
			return usageError{errors.New("--email: is not an address")}
		}
	case erasure.Customer == "":
		// A variable that a script has not set must not end in a success.
		return usageError{errors.New("--customer or --email: is empty")}
	}
	log, err := newLogger(p.stderr, c.LogLevel, c.LogFormat)
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }() // a terminal cannot be synced
	db, err := openDatabase(ctx, c, e.NoDownload, log.Sugar().Infof, p.stderr)
	if err != nil {
		return err
	}
	defer db.stop()
	if err := store.CheckSchema(ctx, db.dsn); err != nil {
		return err
	}
	s, err := openStore(ctx, store.Config{DSN: db.dsn, Keys: c.keys, MaxConns: 4, Log: log.Named("store")})
	if err != nil {
		return err
	}
	defer s.Close()
	erased, err := s.Erase(ctx, erasure)
	log.Info("customer.erased", zap.Bool("by_email", e.Email != ""), zap.Int("payments", erased.Payments), zap.Int("records", erased.Customers),
		zap.Int("mails", erased.Mails), zap.Int("quarantined", erased.Quarantined), zap.Int("jobs", erased.Jobs), zap.Bool("finished", err == nil))
	if err != nil {
		return fmt.Errorf("erasing stopped before its end, repeat it: %w", err)
	}
	fmt.Fprintf(p.stdout, "%d payments and invoices made anonymous\n%d records of addresses deleted\n%d waiting mails canceled\n"+
		"%d quarantined bodies deleted\n%d look-ups deleted\n", erased.Payments, erased.Customers, erased.Mails, erased.Quarantined, erased.Jobs)
	return nil
}

func mailboxOf(address string) (string, bool) {
	valid, ok := email.ValidAddress(address)
	if !ok {
		return "", false
	}
	return email.NormalizeMailbox(valid), true
}
