package email

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"rebound/notify"
	"rebound/notify/email/smtptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// brief makes silence short where a test waits for it; every other limit stays long, so that a slow machine does not
// decide a test.
const brief = time.Second

func patient() Timeouts {
	return Timeouts{Connect: time.Minute, Command: time.Minute, Body: time.Minute, Dot: time.Minute}
}

func sender(t *testing.T, peer *smtptest.Peer, opts Options) *Sender {
	t.Helper()
	if opts.Timeouts == (Timeouts{}) {
		opts.Timeouts = patient()
	}
	s, err := NewSender(peer.URL(), opts)
	require.NoError(t, err)
	return s
}

func message(t *testing.T) *Message {
	t.Helper()
	m, err := Render(sample())
	require.NoError(t, err)
	return m
}

func TestAnAcceptedMailArrivesWhole(t *testing.T) {
	t.Parallel()
	peer := smtptest.New(t, smtptest.Options{})
	m := message(t)
	got := sender(t, peer, Options{}).Send(t.Context(), m, nil)
	require.Equal(t, Outcome{Result: notify.Accepted, Phase: PhaseDot, Code: 250, Enhanced: "2.0.0", Reason: "accepted"}, got)

	held := peer.Held()
	require.Len(t, held, 1)
	require.Equal(t, "billing@shop.example", held[0].From)
	require.Equal(t, []string{"jane@customer.example"}, held[0].Rcpts)
	header, text, html := parts(t, held[0].Raw)
	require.Equal(t, "<"+m.MessageID+">", header.Get("Message-Id"))
	require.Equal(t, strings.TrimRight(m.Text, "\n"), strings.TrimRight(text, "\n"))
	require.Equal(t, strings.TrimRight(m.HTML, "\n"), strings.TrimRight(html, "\n"))
}

func TestEveryReplyIsJudged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault smtptest.Fault
		want  Outcome
	}{
		"mailbox unknown":               {smtptest.Fault{At: smtptest.Rcpt, Reply: "550 5.1.1 no such user"}, Outcome{Result: notify.RejectedAddress, Phase: PhaseRcpt, Code: 550, Enhanced: "5.1.1"}},
		"domain takes no mail":          {smtptest.Fault{At: smtptest.Rcpt, Reply: "556 5.1.10 null MX"}, Outcome{Result: notify.RejectedAddress, Phase: PhaseRcpt, Code: 556, Enhanced: "5.1.10"}},
		"mailbox disabled":              {smtptest.Fault{At: smtptest.Rcpt, Reply: "550 5.2.1 disabled"}, Outcome{Result: notify.RejectedAddress, Phase: PhaseRcpt, Code: 550, Enhanced: "5.2.1"}},
		"our own domain is bad":         {smtptest.Fault{At: smtptest.Rcpt, Reply: "550 5.1.8 sender domain not found"}, Outcome{Result: notify.RejectedMail, Phase: PhaseRcpt, Code: 550, Enhanced: "5.1.8"}},
		"address called valid":          {smtptest.Fault{At: smtptest.Rcpt, Reply: "550 5.1.5 address valid"}, Outcome{Result: notify.RejectedMail, Phase: PhaseRcpt, Code: 550, Enhanced: "5.1.5"}},
		"policy at rcpt":                {smtptest.Fault{At: smtptest.Rcpt, Reply: "550 5.7.1 blocked"}, Outcome{Result: notify.RejectedMail, Phase: PhaseRcpt, Code: 550, Enhanced: "5.7.1"}},
		"no enhanced code":              {smtptest.Fault{At: smtptest.Rcpt, Reply: "550 mailbox unavailable"}, Outcome{Result: notify.RejectedMail, Phase: PhaseRcpt, Code: 550}},
		"class of codes disagrees":      {smtptest.Fault{At: smtptest.Rcpt, Reply: "550 4.1.1 odd"}, Outcome{Result: notify.RejectedMail, Phase: PhaseRcpt, Code: 550}},
		"mailbox full":                  {smtptest.Fault{At: smtptest.Rcpt, Reply: "452 4.2.2 full"}, Outcome{Result: notify.Deferred, Phase: PhaseRcpt, Code: 452, Enhanced: "4.2.2"}},
		"greylisted":                    {smtptest.Fault{At: smtptest.Rcpt, Reply: "451 4.7.1 later"}, Outcome{Result: notify.Deferred, Phase: PhaseRcpt, Code: 451, Enhanced: "4.7.1"}},
		"sender refused":                {smtptest.Fault{At: smtptest.MailFrom, Reply: "550 5.7.1 not yours"}, Outcome{Result: notify.RejectedMail, Phase: PhaseMail, Code: 550, Enhanced: "5.7.1"}},
		"unknown address at mail":       {smtptest.Fault{At: smtptest.MailFrom, Reply: "550 5.1.1 odd"}, Outcome{Result: notify.RejectedMail, Phase: PhaseMail, Code: 550, Enhanced: "5.1.1"}},
		"sender deferred":               {smtptest.Fault{At: smtptest.MailFrom, Reply: "450 4.7.0 slow down"}, Outcome{Result: notify.Deferred, Phase: PhaseMail, Code: 450, Enhanced: "4.7.0"}},
		"log-in wanted":                 {smtptest.Fault{At: smtptest.MailFrom, Reply: "530 5.7.0 log in first"}, Outcome{Result: notify.Paused, Phase: PhaseMail, Code: 530, Enhanced: "5.7.0"}},
		"data refused":                  {smtptest.Fault{At: smtptest.Data, Reply: "554 5.5.1 no"}, Outcome{Result: notify.RejectedMail, Phase: PhaseData, Code: 554, Enhanced: "5.5.1"}},
		"data deferred":                 {smtptest.Fault{At: smtptest.Data, Reply: "451 4.3.0 no"}, Outcome{Result: notify.Deferred, Phase: PhaseData, Code: 451, Enhanced: "4.3.0"}},
		"content refused":               {smtptest.Fault{At: smtptest.Dot, Reply: "554 5.7.1 spam"}, Outcome{Result: notify.RejectedMail, Phase: PhaseDot, Code: 554, Enhanced: "5.7.1"}},
		"unknown address at the dot":    {smtptest.Fault{At: smtptest.Dot, Reply: "550 5.1.1 who"}, Outcome{Result: notify.RejectedMail, Phase: PhaseDot, Code: 550, Enhanced: "5.1.1"}},
		"content deferred":              {smtptest.Fault{At: smtptest.Dot, Reply: "452 4.3.1 disk full"}, Outcome{Result: notify.Deferred, Phase: PhaseDot, Code: 452, Enhanced: "4.3.1"}},
		"repeat of a message id":        {smtptest.Fault{At: smtptest.Dot, MessageID: sample().MessageID, Reply: "550 5.7.0 seen"}, Outcome{Result: notify.RejectedMail, Phase: PhaseDot, Code: 550, Enhanced: "5.7.0"}},
		"closing at greeting":           {smtptest.Fault{At: smtptest.Greeting, Reply: "421 4.3.2 closing"}, Outcome{Result: notify.Paused, Phase: PhaseGreeting, Code: 421, Enhanced: "4.3.2"}},
		"closing at ehlo":               {smtptest.Fault{At: smtptest.Hello, Reply: "421 4.3.2 closing"}, Outcome{Result: notify.Paused, Phase: PhaseHello, Code: 421, Enhanced: "4.3.2"}},
		"closing at mail":               {smtptest.Fault{At: smtptest.MailFrom, Reply: "421 4.7.0 too many"}, Outcome{Result: notify.Paused, Phase: PhaseMail, Code: 421, Enhanced: "4.7.0"}},
		"closing at rcpt":               {smtptest.Fault{At: smtptest.Rcpt, Reply: "421 4.7.0 too many"}, Outcome{Result: notify.Paused, Phase: PhaseRcpt, Code: 421, Enhanced: "4.7.0"}},
		"closing at data":               {smtptest.Fault{At: smtptest.Data, Reply: "421 4.7.0 too many"}, Outcome{Result: notify.Paused, Phase: PhaseData, Code: 421, Enhanced: "4.7.0"}},
		"closing at the dot":            {smtptest.Fault{At: smtptest.Dot, Reply: "421 4.3.2 closing"}, Outcome{Result: notify.Paused, Phase: PhaseDot, Code: 421, Enhanced: "4.3.2"}},
		"we are not wanted":             {smtptest.Fault{At: smtptest.Greeting, Reply: "554 5.7.1 blocked"}, Outcome{Result: notify.Paused, Phase: PhaseGreeting, Code: 554, Enhanced: "5.7.1"}},
		"our name is not wanted":        {smtptest.Fault{At: smtptest.Hello, Reply: "550 5.7.1 bad name"}, Outcome{Result: notify.Paused, Phase: PhaseHello, Code: 550, Enhanced: "5.7.1"}},
		"greeting deferred":             {smtptest.Fault{At: smtptest.Greeting, Reply: "450 4.7.0 wait"}, Outcome{Result: notify.Deferred, Phase: PhaseGreeting, Code: 450, Enhanced: "4.7.0"}},
		"dot answered with nonsense":    {smtptest.Fault{At: smtptest.Dot, Reply: "hello"}, Outcome{Result: notify.Undecided, Phase: PhaseDot}},
		"dot answered with another 2xx": {smtptest.Fault{At: smtptest.Dot, Reply: "220 2.0.0 what"}, Outcome{Result: notify.Undecided, Phase: PhaseDot, Code: 220, Enhanced: "2.0.0"}},
		"dropped at greeting":           {smtptest.Fault{At: smtptest.Greeting, Drop: true}, Outcome{Result: notify.Deferred, Phase: PhaseGreeting}},
		"dropped at ehlo":               {smtptest.Fault{At: smtptest.Hello, Drop: true}, Outcome{Result: notify.Deferred, Phase: PhaseHello}},
		"dropped at mail":               {smtptest.Fault{At: smtptest.MailFrom, Drop: true}, Outcome{Result: notify.Deferred, Phase: PhaseMail}},
		"dropped at rcpt":               {smtptest.Fault{At: smtptest.Rcpt, Drop: true}, Outcome{Result: notify.Deferred, Phase: PhaseRcpt}},
		"dropped at data":               {smtptest.Fault{At: smtptest.Data, Drop: true}, Outcome{Result: notify.Deferred, Phase: PhaseData}},
		"dropped before the dot's 250":  {smtptest.Fault{At: smtptest.Dot, Drop: true}, Outcome{Result: notify.Undecided, Phase: PhaseDot}},
		"dropped after the dot's 250":   {smtptest.Fault{At: smtptest.Dot, DropAfter: true}, Outcome{Result: notify.Accepted, Phase: PhaseDot, Code: 250, Enhanced: "2.0.0"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peer := smtptest.New(t, smtptest.Options{Faults: []smtptest.Fault{c.fault}})
			got := sender(t, peer, Options{}).Send(t.Context(), message(t), nil)
			require.NotEmpty(t, got.Reason)
			reason := got.Reason
			got.Reason = ""
			require.Equal(t, c.want, got, reason)
			mayHold := got.Result == notify.Accepted || got.Result == notify.Undecided
			if c.fault.At != smtptest.Dot {
				require.Empty(t, peer.Held())
			} else if mayHold && c.fault.Reply == "" {
				require.Len(t, peer.Held(), 1)
			} else if !mayHold {
				require.Empty(t, peer.Held())
				require.Len(t, peer.Refused(), 1)
			}
		})
	}
}

func TestSilenceEndsEachPhase(t *testing.T) {
	t.Parallel()
	for at, want := range map[smtptest.Stage]Outcome{
		smtptest.Greeting: {Result: notify.Deferred, Phase: PhaseGreeting, Reason: "greeting: timed out"},
		smtptest.Hello:    {Result: notify.Deferred, Phase: PhaseHello, Reason: "ehlo: timed out"},
		smtptest.MailFrom: {Result: notify.Deferred, Phase: PhaseMail, Reason: "mail: timed out"},
		smtptest.Rcpt:     {Result: notify.Deferred, Phase: PhaseRcpt, Reason: "rcpt: timed out"},
		smtptest.Data:     {Result: notify.Deferred, Phase: PhaseData, Reason: "data: timed out"},
		smtptest.Dot:      {Result: notify.Undecided, Phase: PhaseDot, Reason: "dot: timed out"},
	} {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			peer := smtptest.New(t, smtptest.Options{Faults: []smtptest.Fault{{At: at, Hang: true}}})
			limits := patient()
			if at == smtptest.Dot {
				limits.Dot = brief
			} else {
				limits.Command = brief
			}
			require.Equal(t, want, sender(t, peer, Options{Timeouts: limits}).Send(t.Context(), message(t), nil))
		})
	}
}

func TestALogInIsUsedAndItsRefusalPauses(t *testing.T) {
	t.Parallel()
	peer := smtptest.New(t, smtptest.Options{User: "mailer", Password: "hunter2secret"})
	require.Equal(t, notify.Accepted, sender(t, peer, Options{}).Send(t.Context(), message(t), nil).Result)

	wrong, err := NewSender("smtp://mailer:wrongsecret@"+peer.Addr+"?tls=none", Options{Timeouts: patient()})
	require.NoError(t, err)
	got := wrong.Send(t.Context(), message(t), nil)
	require.Equal(t, notify.Paused, got.Result)
	require.Equal(t, PhaseAuth, got.Phase)
	require.Equal(t, 535, got.Code)

	missing, err := NewSender("smtp://"+peer.Addr+"?tls=none", Options{Timeouts: patient()})
	require.NoError(t, err)
	require.Equal(t, notify.Paused, missing.Send(t.Context(), message(t), nil).Result)

	open := smtptest.New(t, smtptest.Options{})
	useless, err := NewSender("smtp://mailer:hunter2secret@"+open.Addr+"?tls=none", Options{Timeouts: patient()})
	require.NoError(t, err)
	require.Equal(t, Outcome{Result: notify.Paused, Phase: PhaseAuth, Reason: "auth: server offers no log-in that we know"}, useless.Send(t.Context(), message(t), nil))
}

func TestBothKindsOfTLSWorkAndAreInsistedOn(t *testing.T) {
	t.Parallel()
	options := smtptest.Options{User: "mailer", Password: "hunter2secret"}
	for scheme, implicit := range map[string]bool{"smtp": false, "smtps": true} {
		options.TLS, options.ImplicitTLS = !implicit, implicit
		peer := smtptest.New(t, options)
		address := scheme + "://mailer:hunter2secret@" + peer.Addr
		trusting, err := NewSender(address, Options{Timeouts: patient(), TLS: &tls.Config{RootCAs: peer.Roots, MinVersion: tls.VersionTLS12}})
		require.NoError(t, err)
		got := trusting.Send(t.Context(), message(t), nil)
		require.Equal(t, notify.Accepted, got.Result, "%s: %s", scheme, got.Reason)
		require.Len(t, peer.Held(), 1)

		strict, err := NewSender(address, Options{Timeouts: patient()})
		require.NoError(t, err)
		got = strict.Send(t.Context(), message(t), nil)
		require.Equal(t, notify.Paused, got.Result, scheme)
		require.Equal(t, PhaseTLS, got.Phase)
		require.Contains(t, got.Reason, "certificate")
		require.Len(t, peer.Held(), 1)
	}
	plain := smtptest.New(t, smtptest.Options{})
	s, err := NewSender("smtp://"+plain.Addr, Options{Timeouts: patient()})
	require.NoError(t, err)
	got := s.Send(t.Context(), message(t), nil)
	require.Equal(t, notify.Paused, got.Result)
	require.Contains(t, got.Reason, "does not offer STARTTLS")
	require.Zero(t, plain.Reached(smtptest.MailFrom))
}

func TestAnAbsentServerDefers(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	s, err := NewSender("smtp://"+address+"?tls=none", Options{Timeouts: patient()})
	require.NoError(t, err)
	require.Equal(t, Outcome{Result: notify.Deferred, Phase: PhaseConnect, Reason: "connect: connection refused"}, s.Send(t.Context(), message(t), nil))
}

func TestAMailIsAbandonedJustBeforeItsDot(t *testing.T) {
	t.Parallel()
	peer := smtptest.New(t, smtptest.Options{})
	lost, asked := true, 0
	s := sender(t, peer, Options{})
	beforeDot := func(context.Context) error {
		asked++
		if lost {
			return errors.New("lock lost")
		}
		return nil
	}
	require.Equal(t, Outcome{Result: notify.Abandoned, Phase: PhaseData, Reason: "abandoned before the final dot"}, s.Send(t.Context(), message(t), beforeDot))
	require.Equal(t, 1, peer.Reached(smtptest.Data), "the body was under way")
	lost = false
	require.Equal(t, notify.Accepted, s.Send(t.Context(), message(t), beforeDot).Result)
	require.Len(t, peer.Held(), 1, "the abandoned mail was never taken")
	require.Equal(t, 1, peer.Reached(smtptest.Dot))
	require.Equal(t, 2, asked)
}

func TestAnEndingContextAbandonsBeforeTheDotAndIsUndecidedAfterIt(t *testing.T) {
	t.Parallel()
	for at, want := range map[smtptest.Stage]notify.Result{smtptest.Greeting: notify.Abandoned, smtptest.Rcpt: notify.Abandoned, smtptest.Dot: notify.Undecided} {
		peer := smtptest.New(t, smtptest.Options{Faults: []smtptest.Fault{{At: at, Hang: true}}})
		s := sender(t, peer, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan Outcome, 1)
		m := message(t)
		go func() { done <- s.Send(ctx, m, nil) }()
		require.Eventually(t, func() bool { return peer.Reached(at) > 0 }, time.Minute, time.Millisecond)
		cancel()
		require.Equal(t, want, (<-done).Result, at)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	peer := smtptest.New(t, smtptest.Options{})
	require.Equal(t, notify.Abandoned, sender(t, peer, Options{}).Send(ctx, message(t), nil).Result)

	ctx, cancel = context.WithCancel(t.Context())
	got := sender(t, peer, Options{}).Send(ctx, message(t), func(context.Context) error { cancel(); return nil })
	require.Equal(t, notify.Abandoned, got.Result)
	require.Empty(t, peer.Held())
}

func TestAReplyBeatsAnEndingContext(t *testing.T) {
	t.Parallel()
	reply := fmt.Errorf("wrapped: %w", &textproto.Error{Code: 550, Msg: "5.1.1 no"})
	require.ErrorIs(t, withdrawn(PhaseRcpt, reply), reply)
	require.ErrorIs(t, withdrawn(PhaseDot, net.ErrClosed), net.ErrClosed)
	require.ErrorIs(t, withdrawn(PhaseRcpt, net.ErrClosed), errAbandoned)
}

func TestReasonsHoldNoAddressAndNoSecret(t *testing.T) {
	t.Parallel()
	replies := []string{
		"550 5.1.1 <jane.doe+x@customer.example>: user jane.doe+x unknown in customer.example; jane.doe%40customer.example (JANE.DOE)",
		"550-5.1.1 first line jane.doe@customer.example\r\n550 5.1.1 second line mailer hunter2secret",
		"550 5.1.1 \x1b[31mred\x07 joe@other.example " + strings.Repeat("long ", 100),
	}
	for _, reply := range replies {
		peer := smtptest.New(t, smtptest.Options{User: "mailer", Password: "hunter2secret", Faults: []smtptest.Fault{{At: smtptest.Rcpt, Reply: reply}}})
		m := message(t)
		m.To = "jane.doe+x@customer.example"
		got := sender(t, peer, Options{}).Send(t.Context(), m, nil)
		require.Equal(t, notify.RejectedAddress, got.Result)
		lower := strings.ToLower(got.Reason)
		for _, secret := range []string{"@", "jane", "customer.example", "hunter2secret", "mailer", "\x1b", "\n", "other.example"} {
			require.NotContains(t, lower, secret)
		}
		require.LessOrEqual(t, len(got.Reason), 300)
		require.Contains(t, got.Reason, "550 5.1.1")
	}
}

func TestAShortNameIsMaskedAloneAndNotInsideAWord(t *testing.T) {
	t.Parallel()
	require.Equal(t, "no joy: [redacted] is unknown", redact("no joy: <Jo> is unknown", addressSecrets("jo@customer.example")))
}

func TestAnUnreadableURLIsNamedWithoutItsPassword(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"smtp://user:hunter2%zz@mail.example:25", "smtp://user:hunter2@:25", "http://user:hunter2@mail.example",
		"smtp://user:hunter2@mail.example:99999", "smtp://user:hunter2@mail.example:x", "smtp://user:hunter2@mail.example?tls=maybe",
		"smtp://user:hunter2@mail.example?x=hunter2", "smtps://user:hunter2@mail.example?tls=none", "smtp://:hunter2@mail.example",
		"smtp://user:hunter2@mail.example/path", "smtp://hunter2@mail.example", "hunter2", "", "smtp://user:hunter2@mail.example?tls=none;%zz",
	} {
		_, err := NewSender(bad, Options{})
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), "hunter2")
		require.Contains(t, err.Error(), "reading SMTP URL")
	}
	for good, address := range map[string]string{
		"smtp://mail.example": "mail.example:587", "smtp://mail.example?tls=none": "mail.example:25", "smtps://mail.example": "mail.example:465",
		"smtp://u:p%40ss@mail.example:2525?tls=starttls": "mail.example:2525", "smtp://[::1]:25?tls=none": "[::1]:25",
	} {
		s, err := NewSender(good, Options{})
		require.NoError(t, err, good)
		require.Equal(t, address, s.Address())
		require.Equal(t, 17*time.Minute+30*time.Second, s.MaxDuration())
	}
}

func TestAMessageThatCannotBeEncodedIsNeverDialled(t *testing.T) {
	t.Parallel()
	peer := smtptest.New(t, smtptest.Options{})
	m := message(t)
	m.To = "nobody at all"
	got := sender(t, peer, Options{}).Send(t.Context(), m, nil)
	require.Equal(t, Outcome{Result: notify.RejectedMail, Phase: PhaseRender, Reason: "mail cannot be encoded"}, got)
	require.Zero(t, peer.Reached(smtptest.Greeting))
}
