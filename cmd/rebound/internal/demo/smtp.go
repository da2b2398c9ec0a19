package demo

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"time"

	"github.com/emersion/go-smtp"
)

// SMTPServer takes mail for anybody and puts it into a mailbox. It speaks real SMTP, so what is sent to it went the same
// way as what is sent to a provider.
type SMTPServer struct {
	server   *smtp.Server
	listener net.Listener
	done     chan struct{}
}

// StartSMTP serves on a listener until Close.
func StartSMTP(listener net.Listener, mailbox *Mailbox) *SMTPServer {
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		return &smtpSession{mailbox: mailbox}, nil
	}))
	server.Domain = "localhost"
	server.ReadTimeout, server.WriteTimeout = time.Minute, time.Minute
	server.MaxMessageBytes, server.MaxRecipients = 10<<20, 50
	server.ErrorLog = log.New(io.Discard, "", 0)
	s := &SMTPServer{server: server, listener: listener, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		_ = server.Serve(listener) // ends with Close; there is nobody to tell
	}()
	return s
}

// URL is what SMTP_URL takes to send here.
func (s *SMTPServer) URL() string { return "smtp://" + s.listener.Addr().String() + "?tls=none" }

// Close ends the server and its connections.
func (s *SMTPServer) Close() error {
	err := s.server.Close()
	// The server closes the listeners that Serve has registered, and Serve may not have come so far.
	if closeErr := s.listener.Close(); err == nil {
		err = closeErr
	}
	<-s.done
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("closing the mail catcher: %w", err)
	}
	return nil
}

type smtpSession struct {
	mailbox *Mailbox
	from    string
	to      []string
}

// Mail notes the sender.
func (s *smtpSession) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	return nil
}

// Rcpt notes a recipient; all are welcome.
func (s *smtpSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = append(s.to, to)
	return nil
}

// Data keeps the mail before it is acknowledged.
func (s *smtpSession) Data(r io.Reader) error {
	content, err := io.ReadAll(r)
	if err != nil {
		return err // go-smtp's own, with its reply code
	}
	if _, err := s.mailbox.Put(s.from, s.to, content); err != nil {
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "Mail was not kept"}
	}
	return nil
}

// Reset forgets the envelope.
func (s *smtpSession) Reset() { s.from, s.to = "", nil }

// Logout ends the session.
func (s *smtpSession) Logout() error { return nil }
