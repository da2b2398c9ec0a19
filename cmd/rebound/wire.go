package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"

	"rebound/console"
	"rebound/handler"
	"rebound/notify"
	"rebound/notify/checkout"
	"rebound/notify/email"
	"rebound/notify/link"
	"rebound/store"
	"rebound/store/job"
	"rebound/webhook"
)

// server is the parts of one running process.
type server struct {
	config   *config
	options  serveOptions
	log      *zap.Logger
	store    *store.Store
	recorder *handler.Recorder
	hub      *checkout.Hub         // nil where the role receives nothing
	sender   *notify.Sender        // nil where the role sends nothing
	jobs     *river.Client[pgx.Tx] // the same
	public   *http.Server
	admin    *http.Server

	failed     chan error // a listener that broke
	background sync.WaitGroup
	endStreams context.CancelFunc
	endWatch   context.CancelFunc
	sweeper    *sweepWorker // nil where the role sends nothing
}

func (s *server) receives() bool { return s.options.role != "work" }
func (s *server) sends() bool    { return s.options.role != "ingest" }

// newServer puts the parts together; nothing runs yet but the recorder, which waits.
func newServer(ctx context.Context, c *config, o serveOptions) (*server, error) {
	s := &server{
		config: c, options: o, log: o.log, failed: make(chan error, 2),
		endStreams: func() {}, endWatch: func() {},
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var err error
	if s.store, err = openStore(ctx, store.Config{DSN: o.db.dsn, Keys: c.keys, Log: o.log.Named("store")}); err != nil {
		return nil, err
	}
	s.recorder = handler.NewRecorder(s.store, c.policy(), o.log.Named("handler"), metrics)
	health := console.NewHealth(console.Ready(s.store), nil, o.log.Named("health"))
	if err := s.wireWork(metrics); err != nil {
		return nil, s.abort(err)
	}
	router, err := s.publicRoutes(health, metrics)
	if err != nil {
		return nil, s.abort(err)
	}
	s.public = s.httpServer(router)
	s.admin = s.httpServer(console.New(console.Config{
		Store: s.store, Tokens: c.tokens, AccountLocales: c.accountLocales(), Livemode: c.Mode == "live", MaxRetriesPerCharge: c.MaxRetriesPerCharge,
		Health: health, Metrics: metrics, Now: s.store.Now, Log: o.log.Named("console"),
		ValidEmail: func(address string) bool { _, ok := email.ValidAddress(address); return ok },
	}))
	return s, nil
}

// abort gives back what newServer has taken.
func (s *server) abort(err error) error {
	s.recorder.Close()
	s.store.Close()
	return err
}

func (c *config) decodeOptions(s *store.Store) webhook.DecodeOptions {
	return webhook.DecodeOptions{
		SessionKey: c.PresenceMetadataKey, EmailKey: c.EmailMetadataKey, LocaleKey: c.LocaleMetadataKey,
		HashClientSecret: s.HashClientSecret,
	}
}

// accountLocales are the languages of the accounts' profiles.
func (c *config) accountLocales() map[string]string {
	locales := make(map[string]string, len(c.profiles))
	for account, p := range c.profiles {
		locales[account] = p.Locale
	}
	return locales
}

// wireWork makes what sends: the mailer, its sender, and the workers of the job queue.
func (s *server) wireWork(metrics *prometheus.Registry) error {
	if !s.sends() {
		return nil
	}
	c := s.config
	config := notify.Config{
		Store: s.store, Log: s.log.Named("notify"), PublicURL: c.PublicURL, MaxAge: c.NotifyMaxAge, Reminders: c.Reminders,
		AtMost: c.MailDelivery == "at-most-once", Barred: c.policy().Barred,
		Limits: notify.Limits{
			PerPayment24h: c.MailPerPayment24H, PerPayment: c.MailPerPaymentTotal, PerMailbox24h: c.MailPerMailbox24H, PerMailbox7d: c.MailPerMailbox7D,
			NewMailboxesPerHour: c.MailNewMailboxesPerHour, PerDay: c.MailPerDay,
		},
		AccountLocales: c.accountLocales(), Metrics: metrics,
	}
	if c.SMTPURL != "" {
		m, err := newMailer(c)
		if err != nil {
			return err
		}
		config.Mailer = m
	}
	s.sender = notify.NewSender(config)
	workers := river.NewWorkers()
	s.sender.AddWorkers(workers)
	lookUps := &lookUpWorker{recorder: s.recorder}
	if c.StripeAPIKey != "" {
		api, err := webhook.NewStripeAPI(webhook.APIConfig{
			Key: c.StripeAPIKey, Base: c.StripeAPIBase, Decode: c.decodeOptions(s.store), Log: s.log.Named("stripe_api"),
		})
		if err != nil {
			return err
		}
		lookUps.api = api
	}
	river.AddWorker(workers, lookUps)
	s.sweeper = newSweepWorker(s.store, c, s.log.Named("sweep"))
	river.AddWorker(workers, s.sweeper)
	jobTimeout := s.sender.JobTimeout()
	var err error
	s.jobs, err = river.NewClient(riverpgxv5.New(s.store.Pool()), &river.Config{
		Queues:  map[string]river.QueueConfig{job.QueueMail: {MaxWorkers: 8}, job.QueueLookUp: {MaxWorkers: 4}, job.QueueSweep: {MaxWorkers: 1}},
		Workers: workers, PeriodicJobs: append(notify.PeriodicJobs(), s.sweeper.periodic()), JobTimeout: jobTimeout,
		RescueStuckJobsAfter: jobTimeout + time.Minute, // a job that still waits for its answer is not stuck
		ReindexerIndexNames: slices.DeleteFunc(river.ReindexerIndexNamesDefault(), func(index string) bool {
			return index == "river_job_args_index" || index == "river_job_metadata_index" // a migration takes them away
		}),
		ErrorHandler: failedJobs{s.log.Named("jobs")},
		Test:         river.TestConfig{Time: s.store.JobClock()}, // River takes a clock for tests alone
		Logger:       slog.New(zapslog.NewHandler(s.log.Named("river").WithOptions(zap.IncreaseLevel(zap.WarnLevel)).Core())),
	})
	if err != nil {
		return fmt.Errorf("making the job queue's client: %w", err)
	}
	return nil
}

// failedJobs tells of jobs that failed: River does among the lines of its every step, which are left out, and a mail that failed
// before its mail server was asked says nothing by itself.
type failedJobs struct{ log *zap.Logger }

// HandleError is River's word of a failed job.
func (f failedJobs) HandleError(_ context.Context, j *rivertype.JobRow, err error) *river.ErrorHandlerResult {
	f.log.Warn("job.failed", zap.String("kind", j.Kind), zap.Int64("job", j.ID), zap.Int("try", j.Attempt), zap.Error(err))
	return nil
}

// HandlePanic says nothing: River's own line is an error's.
func (failedJobs) HandlePanic(context.Context, *rivertype.JobRow, any, string) *river.ErrorHandlerResult {
	return nil
}

// publicRoutes is what the world can reach. A process that only sends answers nothing there but its health.
func (s *server) publicRoutes(health *console.Health, metrics *prometheus.Registry) (http.Handler, error) {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.IPExtractor = echo.ExtractIPDirect() // X-Forwarded-For is anybody's word
	e.Use(middleware.RecoverWithConfig(middleware.RecoverConfig{
		DisableStackAll: true,
		LogErrorFunc: func(c echo.Context, err error, stack []byte) error {
			// The route, not the path: paths hold tokens.
			s.log.Error("request.panicked", zap.String("route", c.Path()), zap.Error(err), zap.ByteString("stack", stack))
			return echo.ErrInternalServerError
		},
	}))
	probe := []string{http.MethodGet, http.MethodHead}
	e.Match(probe, "/healthz", echo.WrapHandler(http.HandlerFunc(health.Healthz)))
	e.Match(probe, "/readyz", echo.WrapHandler(http.HandlerFunc(health.Readyz)))
	if !s.receives() {
		return e, nil
	}
	c := s.config
	if len(c.stripeSecrets) > 0 {
		door, err := webhook.NewStripe(webhook.StripeConfig{
			Secrets: c.stripeSecrets, Tolerance: c.SignatureTolerance, BodyLimit: int64(c.BodyLimit), Recorder: s.recorder,
			Decode: c.decodeOptions(s.store), Log: s.log.Named("webhook"), Metrics: metrics,
		})
		if err != nil {
			return nil, fmt.Errorf("making the Stripe endpoint: %w", err)
		}
		door.Register(e)
	}
	if len(c.frameSecrets) > 0 {
		door, err := webhook.NewFrame(webhook.FrameConfig{
			Secrets: c.frameSecrets, BodyLimit: int64(c.BodyLimit), Recorder: s.recorder, Decode: c.decodeOptions(s.store),
			Livemode: c.Mode == "live", Log: s.log.Named("webhook"), Metrics: metrics,
		})
		if err != nil {
			return nil, fmt.Errorf("making the Frame endpoint: %w", err)
		}
		door.Register(e)
	}
	s.hub = checkout.New(checkout.Config{
		Store: checkoutRows{s.store}, Hash: s.store.HashClientSecret, Origins: c.CheckoutOrigins, Livemode: new(c.Mode == "live"), Log: s.log.Named("checkout"),
	})
	s.hub.Register(e)
	links := &link.Handler{
		Tokens: mailLinks{s.store, c},
		Report: func(err error) { s.log.Error("link.failed", zap.Error(err)) },
	}
	links.Register(e)
	return e, nil
}

func (s *server) httpServer(h http.Handler) *http.Server {
	server := &http.Server{Handler: h, ErrorLog: zap.NewStdLog(s.log.Named("http").WithOptions(zap.IncreaseLevel(zap.ErrorLevel)))} //nolint:gosec // the limits come in the next line
	webhook.ServerLimits(server)
	return server
}

// start sets everything going. The order is the reverse of stop's.
func (s *server) start(told context.Context) error {
	// What runs in the background ends by stop, step by step, and not all at once when the program is told to end: that ends
	// only a start that waits for Postgres.
	ctx, end := context.WithCancel(context.WithoutCancel(told))
	begun := context.AfterFunc(told, end)
	watchCtx, cancel := context.WithCancel(ctx)
	s.endWatch = cancel
	if err := s.store.SetClock(ctx); err != nil { // before anything is dated
		return err
	}
	s.background.Go(func() { s.store.KeepClock(watchCtx) })
	if s.sender != nil {
		if err := s.sender.Start(ctx); err != nil {
			return err
		}
		if err := s.jobs.Start(ctx); err != nil {
			return fmt.Errorf("starting the job queue's workers: %w", err)
		}
		s.background.Go(func() { s.sender.Watch(watchCtx) })
	}
	if !begun() {
		return told.Err()
	}
	if s.hub != nil {
		streamCtx, cancel := context.WithCancel(ctx)
		s.endStreams = cancel
		s.background.Go(func() { s.hub.Run(streamCtx) })
	}
	s.accept(s.public, s.options.public)
	s.accept(s.admin, s.options.admin)
	return nil
}

func (s *server) accept(server *http.Server, listener net.Listener) {
	s.background.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("serving %s: %w", listener.Addr(), err)
		}
	})
}

// settleTime is the part of the shutdown time kept for what is cut off to say so.
const settleTime = 2 * time.Second

// stop ends everything within SHUTDOWN_TIMEOUT: no new request and no new mail at once, then what is in flight. A mail
// still waiting for its answer at the end is left to MAIL_DELIVERY.
func (s *server) stop() {
	timeout := s.config.ShutdownTimeout
	whole, cancelWhole := context.WithTimeout(context.Background(), timeout)
	defer cancelWhole()
	soft, cancelSoft := context.WithTimeout(whole, max(timeout-settleTime, timeout/2))
	defer cancelSoft()
	s.endStreams()
	if s.sweeper != nil {
		s.sweeper.end()
	}
	var ending sync.WaitGroup
	for _, server := range []*http.Server{s.public, s.admin} {
		ending.Go(func() {
			if err := server.Shutdown(soft); err != nil {
				_ = server.Close()
			}
		})
	}
	ending.Go(func() { s.stopJobs(soft, whole) })
	ending.Wait()
	s.endWatch()                 // not sooner: it keeps the lock that the mails in flight rest on
	_ = s.options.public.Close() // open where the server never began
	_ = s.options.admin.Close()
	within(whole, s.recorder.Close)
	if s.sender != nil {
		within(whole, func() { s.sender.Stop(whole) })
	}
	within(whole, s.background.Wait)
	// A mail that is still waiting for its answer may hold a connection.
	within(whole, s.store.Close)
}

func (s *server) stopJobs(soft, whole context.Context) {
	if s.jobs == nil {
		return
	}
	if s.jobs.Stop(soft) == nil {
		return
	}
	if err := s.jobs.StopAndCancel(whole); err != nil {
		s.log.Warn("server.jobs_left", zap.Error(err))
	}
}

// within waits for f, but no longer than ctx.
func within(ctx context.Context, f func()) {
	done := make(chan struct{})
	go func() {
		f()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// unreachable tells an error of the way to Postgres from one of its own, and from none.
func unreachable(err error) bool {
	var connect *pgconn.ConnectError
	var refused *pgconn.PgError
	if !errors.As(err, &connect) {
		return false
	}
	// A server that starts, or stops, says so; any other refusal (a wrong password) will not pass by waiting.
	return !errors.As(err, &refused) || strings.HasPrefix(refused.Code, "57P")
}

func domainOf(address string) string {
	_, domain, _ := strings.Cut(address, "@")
	return domain
}
