package email

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail/smtp"

	"rebound/notify"
)

// Timeouts bound the phases of one delivery. Each zero field takes its default.
type Timeouts struct {
	Connect time.Duration // TCP, and the TLS handshake of smtps; default 30 s
	Command time.Duration // each command's reply, greeting, STARTTLS and log-in included; default 30 s
	Body    time.Duration // writing the body; default 2 min
	// Dot is the wait for the reply to the final dot; default 10 min (RFC 5321 section 4.5.3.2.6). Shorter ones
	// duplicate mail: a server that is slow here has often accepted it (RFC 1047).
	Dot time.Duration
}

func (t Timeouts) withDefaults() Timeouts {
	return Timeouts{
		Connect: cmp.Or(t.Connect, 30*time.Second),
		Command: cmp.Or(t.Command, 30*time.Second),
		Body:    cmp.Or(t.Body, 2*time.Minute),
		Dot:     cmp.Or(t.Dot, 10*time.Minute),
	}
}

// Options tune a Sender. The zero value is right for production.
type Options struct {
	Timeouts Timeouts
	// TLS replaces the default TLS settings, e.g. to trust a private authority. ServerName is filled in.
	TLS *tls.Config
}

type transport int

const (
	startTLS transport = iota
	implicitTLS
	plainText
)

// Sender hands mails to one SMTP server, one connection for each. It is safe for concurrent use.
//
// It drives go-mail's SMTP client one command at a time instead of calling its Send, because three things are needed
// that Send does not offer: a time limit for each phase, a last look before the final dot, and to end a connection
// without QUIT, which in go-mail would send the dot of a half-written body.
type Sender struct {
	host, port     string
	user, password string
	transport      transport
	opts           Options
}

// NewSender reads an SMTP_URL: smtp://user:password@host:port?tls=starttls|none (starttls is the default and then
// required of the server; ports 587 and 25) or smtps://user:password@host:port (port 465). Nothing is dialled. Errors
// name the fault and never the URL.
func NewSender(smtpURL string, opts Options) (*Sender, error) {
	u, err := url.Parse(smtpURL)
	if err != nil {
		return nil, errors.New("reading SMTP URL: not a URL (percent-encode special characters of user and password)")
	}
	s := &Sender{host: u.Hostname(), port: u.Port(), opts: opts}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("reading SMTP URL: malformed query")
	}
	mode := query.Get("tls")
	query.Del("tls")
	if len(query) > 0 {
		return nil, errors.New("reading SMTP URL: the only query parameter is tls")
	}
	switch u.Scheme {
	case "smtp":
		switch mode {
		case "", "starttls":
			s.port = cmp.Or(s.port, "587")
		case "none":
			s.transport, s.port = plainText, cmp.Or(s.port, "25")
		default:
			return nil, errors.New("reading SMTP URL: tls must be starttls or none")
		}
	case "smtps":
		if mode != "" {
			return nil, errors.New("reading SMTP URL: smtps takes no tls parameter")
		}
		s.transport, s.port = implicitTLS, cmp.Or(s.port, "465")
	default:
		return nil, errors.New("reading SMTP URL: scheme must be smtp or smtps")
	}
	if s.host == "" {
		return nil, errors.New("reading SMTP URL: no host")
	}
	if n, err := strconv.Atoi(s.port); err != nil || n < 1 || n > 65535 {
		return nil, errors.New("reading SMTP URL: port must be 1 to 65535")
	}
	if u.Path != "" && u.Path != "/" || u.Fragment != "" {
		return nil, errors.New("reading SMTP URL: nothing may follow the port but ?tls=")
	}
	if u.User != nil {
		s.user = u.User.Username()
		s.password, _ = u.User.Password()
		if s.user == "" || s.password == "" {
			return nil, errors.New("reading SMTP URL: a log-in needs both user and password")
		}
	}
	s.opts.Timeouts = opts.Timeouts.withDefaults()
	return s, nil
}

// helloName is what is given with EHLO: this host's name if a server could like it.
func helloName() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "localhost"
	}
	for i := range len(name) {
		if c := name[i]; c != '-' && c != '.' && !isAlphanumeric(c) {
			return "localhost"
		}
	}
	return name
}

// Address names the server as host:port, for logs.
func (s *Sender) Address() string { return net.JoinHostPort(s.host, s.port) }

// MaxDuration is the longest that one Send can take, beforeDot not counted: a job around it needs more time than that.
func (s *Sender) MaxDuration() time.Duration {
	t := s.opts.Timeouts
	const commands = 10 // greeting, EHLO and HELO, STARTTLS, EHLO, up to two of AUTH, MAIL, RCPT, DATA
	return t.Connect + commands*t.Command + t.Body + t.Dot
}

// Send delivers one mail to its one recipient and says what became of it. When ctx ends before the final dot the mail
// is Abandoned; when it ends afterwards the outcome is Undecided. beforeDot, unless nil, is asked when the whole mail but
// its final dot has been sent. An error abandons the mail: the connection is dropped and the server, never having seen
// the dot, keeps nothing.
func (s *Sender) Send(ctx context.Context, m *Message, beforeDot func(context.Context) error) Outcome {
	raw, err := m.Bytes() // before dialling: an error inside a body would truncate a mail that the server then keeps
	if err != nil {
		return outcomeOf(PhaseRender, err, nil)
	}
	d := &delivery{sender: s, phase: PhaseConnect}
	err = d.run(ctx, m, raw, beforeDot)
	if err == nil {
		return Outcome{Result: notify.Accepted, Phase: PhaseDot, Code: 250, Enhanced: d.enhanced, Reason: "accepted"}
	}
	if ctx.Err() != nil {
		err = withdrawn(d.phase, err)
	}
	secrets := append(addressSecrets(m.To), s.user, s.password)
	return outcomeOf(d.phase, err, secrets)
}

// withdrawn gives the error of a delivery whose context has ended. A reply that came first still counts, and after the
// final dot nothing can be taken back.
func withdrawn(phase Phase, err error) error {
	var reply *textproto.Error
	if phase == PhaseDot || errors.As(err, &reply) {
		return err
	}
	return errAbandoned
}

// delivery is one connection and the one mail on it.
type delivery struct {
	sender   *Sender
	phase    Phase
	conn     net.Conn // the TCP connection, below any TLS
	enhanced string   // of the final reply
}

// run hands over the mail. It returns nil exactly when the server took responsibility for it; otherwise d.phase is
// where it ended.
func (d *delivery) run(ctx context.Context, m *Message, raw []byte, beforeDot func(context.Context) error) error {
	s, limits := d.sender, d.sender.opts.Timeouts
	dialCtx, cancel := context.WithTimeout(ctx, limits.Connect)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(dialCtx, "tcp", s.Address())
	if err != nil {
		return fmt.Errorf("dialling: %w", err)
	}
	d.conn = conn
	defer conn.Close()
	// Closing the bare connection is the one thing that interrupts a command in flight: go-mail's client holds its
	// lock while it waits for a reply.
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	if s.transport == implicitTLS {
		d.enter(PhaseTLS, limits.Connect)
		encrypted := tls.Client(conn, s.tlsConfig())
		if err := encrypted.HandshakeContext(dialCtx); err != nil {
			return fmt.Errorf("shaking hands: %w", err)
		}
		conn = encrypted
	}
	client, err := d.open(conn)
	if err != nil {
		return err
	}

	d.enter(PhaseMail, limits.Command)
	if err := client.Mail("<" + m.From + ">"); err != nil {
		return d.quit(client, err)
	}
	d.enter(PhaseRcpt, limits.Command)
	if err := client.Rcpt("<" + m.To + ">"); err != nil {
		return d.quit(client, err)
	}
	d.enter(PhaseData, limits.Command)
	body, err := client.Data()
	if err != nil {
		return d.quit(client, err)
	}
	d.enter(PhaseData, limits.Body)
	if _, err := body.Write(raw); err != nil {
		return fmt.Errorf("writing body: %w", err)
	}
	if err := client.Text.W.Flush(); err != nil {
		return fmt.Errorf("writing body: %w", err)
	}
	if beforeDot != nil {
		if err := beforeDot(ctx); err != nil {
			return errAbandoned
		}
	}
	if ctx.Err() != nil {
		return errAbandoned
	}

	d.enter(PhaseDot, limits.Dot)
	if err := body.Close(); err != nil {
		return fmt.Errorf("reading reply to final dot: %w", err)
	}
	if data, ok := body.(*smtp.DataCloser); ok {
		if match := enhancedPattern.FindStringSubmatch(data.ServerResponse()); match != nil {
			d.enhanced = strings.TrimSpace(match[0])
		}
	}
	return d.quit(client, nil)
}

// open takes a fresh connection to the point where MAIL may follow.
func (d *delivery) open(conn net.Conn) (*smtp.Client, error) {
	s, limit := d.sender, d.sender.opts.Timeouts.Command
	d.enter(PhaseGreeting, limit)
	client, err := smtp.NewClient(conn, s.host)
	if err != nil {
		return nil, fmt.Errorf("reading greeting: %w", err)
	}
	client.SkipSMTPUTF8(true) // every address is ASCII
	d.enter(PhaseHello, limit)
	if err := client.Hello(helloName()); err != nil {
		return nil, fmt.Errorf("greeting: %w", err)
	}
	if s.transport == startTLS {
		d.enter(PhaseTLS, limit)
		if offered, _ := client.Extension("STARTTLS"); !offered {
			return nil, d.quit(client, errors.New("server does not offer STARTTLS (smtps or tls=none are the other choices)"))
		}
		if err := client.StartTLS(s.tlsConfig()); err != nil {
			return nil, fmt.Errorf("starting TLS: %w", err)
		}
	}
	if s.user != "" {
		d.enter(PhaseAuth, limit)
		_, offered := client.Extension("AUTH")
		auth := s.auth(strings.Fields(offered))
		if auth == nil {
			return nil, d.quit(client, errors.New("server offers no log-in that we know"))
		}
		if err := client.Auth(auth); err != nil {
			return nil, fmt.Errorf("logging in: %w", err)
		}
	}
	return client, nil
}

// enter starts a phase and its time limit. The limit is set below TLS, where it holds for both directions.
func (d *delivery) enter(phase Phase, limit time.Duration) {
	d.phase = phase
	// The only error is a closed connection, which the next command reports.
	_ = d.conn.SetDeadline(time.Now().Add(limit))
}

// quit takes leave without waiting for an answer, since the outcome is known, and returns err.
func (d *delivery) quit(client *smtp.Client, err error) error {
	_, _ = client.Text.Cmd("QUIT")
	return err
}

func (s *Sender) tlsConfig() *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.opts.TLS != nil {
		config = s.opts.TLS.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = s.host
	}
	return config
}

// auth picks the log-in: a challenge-response first where nothing protects the line, else the one that most servers
// do best. tls=none is an explicit choice, so a password may go over such a line when the server wants it so.
func (s *Sender) auth(offered []string) smtp.Auth {
	order := []string{"SCRAM-SHA-256", "PLAIN", "LOGIN", "CRAM-MD5"}
	if s.transport == plainText {
		order = []string{"SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"}
	}
	for _, mechanism := range order {
		if !slices.Contains(offered, mechanism) {
			continue
		}
		switch mechanism {
		case "SCRAM-SHA-256":
			return smtp.ScramSHA256Auth(s.user, s.password)
		case "PLAIN":
			return smtp.PlainAuth("", s.user, s.password, s.host, s.transport == plainText)
		case "LOGIN":
			return smtp.LoginAuth(s.user, s.password, s.host, s.transport == plainText)
		case "CRAM-MD5":
			return smtp.CRAMMD5Auth(s.user, s.password)
		}
	}
	return nil
}
