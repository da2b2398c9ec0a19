package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"rebound/cmd/rebound/internal/demo"
	"rebound/cmd/rebound/internal/sample"
	"rebound/store/localpg"
	"rebound/store/seal"
	"rebound/webhook"
)

type devCommand struct {
	NoDownload bool   `help:"Never fetch Postgres when there is none."`
	Shop       string `default:"127.0.0.1:8082" help:"Address of the demo shop and the captured mail; a loopback address."`
	NoSamples  bool   `help:"Post no sample events at the start."`
}

// devSecrets are made at the first start and kept, so that what is stored stays readable and what is set up elsewhere
// (a log-in, stripe listen) stays valid.
type devSecrets struct {
	EncryptionKey string `json:"encryption_key"`
	WebhookSecret string `json:"webhook_secret"`
	APIToken      string `json:"api_token"`
}

const devSecretsFile = "dev.json"

// lockedError says that another dev uses the data directory.
type lockedError struct{ pid string }

// Error names the process, if it is known.
func (e *lockedError) Error() string {
	who := "another rebound dev"
	if e.pid != "" {
		who += " (process " + e.pid + ")"
	}
	return who + " is running on this data directory; stop it, or set DATA_DIR to another one"
}

// Run runs everything until ctx ends.
func (d *devCommand) Run(ctx context.Context, p *program) error {
	if !loopback(d.Shop) {
		return usageError{errors.New("--shop must be a loopback address: the demo is open to whoever reaches it")}
	}
	h := &devHouse{command: d, program: p, vars: readEnviron(p.environ)}
	if h.vars["SMTP_URL"] != "" || h.vars["SMTP_URL_FILE"] != "" {
		h.say("SMTP_URL is not used: dev captures all mail")
		delete(h.vars, "SMTP_URL_FILE")
	}
	// What dev reads or sets itself would else be given twice, by itself and by its X_FILE.
	f := &faults{}
	readFiles(h.vars, slices.Concat(variables(), laterVariables), f)
	if err := h.check(ctx, f); err != nil {
		return unlessEnded(ctx, err)
	}
	dir, err := dataDir(h.vars)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	unlock, err := lockFile(filepath.Join(dir, "dev.lock"))
	if err != nil {
		return fmt.Errorf("using %s: %w", dir, err)
	}
	defer unlock()
	secrets, err := keptSecrets(filepath.Join(dir, devSecretsFile))
	if err != nil {
		return err
	}
	h.dir = dir
	defer h.close()
	return unlessEnded(ctx, h.run(ctx, secrets))
}

// check finds the faults of the configuration while nothing listens yet and nothing was made.
func (h *devHouse) check(ctx context.Context, f *faults) error {
	c, err := parseConfig(readEnviron(h.environ(newSecrets(), devAddresses{
		public: orDefault(h.vars["LISTEN_ADDR"], defaultListenAddr), admin: orDefault(h.vars["ADMIN_ADDR"], defaultAdminAddr),
		shop: "127.0.0.1:1", smtp: "smtp://127.0.0.1:1?tls=none",
	})), f, forServing)
	if err != nil {
		return err
	}
	return c.resolveListeners(ctx)
}

func dataDir(vars map[string]string) (string, error) {
	dir := vars["DATA_DIR"]
	if dir == "" {
		var err error
		if dir, err = localpg.DefaultDataDir(); err != nil {
			return "", err
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("finding the data directory: %w", err)
	}
	return dir, nil
}

func newSecrets() devSecrets {
	return devSecrets{EncryptionKey: seal.GenerateKey(), WebhookSecret: "whsec_dev_" + rand.Text(), APIToken: "dev_" + rand.Text()}
}

func keptSecrets(path string) (devSecrets, error) {
	var s devSecrets
	content, err := os.ReadFile(path) //nolint:gosec // below DATA_DIR
	if err == nil {
		err := json.Unmarshal(content, &s)
		if _, keyErr := seal.ParseKeys(s.EncryptionKey); err != nil || keyErr != nil || len(s.WebhookSecret) < webhook.MinSecretBytes || s.APIToken == "" {
			return s, fmt.Errorf("reading %s: it is damaged; remove it together with the data directory to start afresh", path)
		}
		return s, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return s, fmt.Errorf("reading the kept secrets: %w", err)
	}
	s = newSecrets()
	content, err = json.MarshalIndent(s, "", "  ")
	if err != nil {
		return s, fmt.Errorf("encoding the secrets: %w", err)
	}
	// Never half a file: without the key the database cannot be read any more.
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return s, fmt.Errorf("keeping the secrets: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return s, fmt.Errorf("keeping the secrets: %w", err)
	}
	return s, nil
}

// devHouse is what dev runs besides the server.
type devHouse struct {
	command *devCommand
	program *program
	dir     string
	vars    map[string]string
	log     *zap.Logger

	mailbox *demo.Mailbox
	smtp    *demo.SMTPServer
	shop    *demo.Shop
	web     *http.Server
	cancel  context.CancelFunc
	running sync.WaitGroup
}

func (h *devHouse) close() {
	if h.cancel != nil {
		h.cancel()
	}
	if h.shop != nil {
		h.shop.Close()
	}
	if h.web != nil {
		_ = h.web.Close() // the inbox waits in long polls
	}
	h.running.Wait()
	if h.smtp != nil {
		_ = h.smtp.Close() // after the server, which may be sending
	}
}

func (h *devHouse) say(format string, args ...any) {
	fmt.Fprintf(h.program.stderr, format+"\n", args...)
}

// listenNear opens an address, or any free port of the same host if the port is taken.
func (h *devHouse) listenNear(what, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err == nil {
		return l, nil
	}
	host, port, splitErr := net.SplitHostPort(address)
	if splitErr != nil || port == "0" {
		return nil, fmt.Errorf("listening for %s: %w", what, err)
	}
	l, second := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if second != nil {
		return nil, fmt.Errorf("listening for %s: %w", what, err)
	}
	h.say("%s: %s is taken by another program, using %s instead", what, address, l.Addr())
	return l, nil
}

func (h *devHouse) run(ctx context.Context, secrets devSecrets) (err error) {
	started := time.Now()
	public, err := h.listenNear("the public listener", orDefault(h.vars["LISTEN_ADDR"], defaultListenAddr))
	if err != nil {
		return err
	}
	defer public.Close()
	admin, err := h.listenNear("the admin listener", orDefault(h.vars["ADMIN_ADDR"], defaultAdminAddr))
	if err != nil {
		return err
	}
	defer admin.Close()
	shop, err := h.listenNear("the demo shop", h.command.Shop)
	if err != nil {
		return err
	}
	defer shop.Close()
	if h.mailbox, err = demo.OpenMailbox(filepath.Join(h.dir, "mail")); err != nil {
		return err
	}
	capture, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening for captured mail: %w", err)
	}
	h.smtp = demo.StartSMTP(capture, h.mailbox)

	c, err := loadConfig(h.environ(secrets, devAddresses{
		public: public.Addr().String(), admin: admin.Addr().String(), shop: shop.Addr().String(), smtp: h.smtp.URL(),
	}), forServing)
	if err != nil {
		return err
	}
	if h.log, err = newLogger(h.program.stderr, c.LogLevel, c.LogFormat); err != nil {
		return err
	}
	defer func() { _ = h.log.Sync() }()
	db, err := openDatabase(ctx, c, h.command.NoDownload, h.say, h.program.stderr)
	if err != nil {
		return err
	}
	defer db.stop()
	if err := prepareSchema(ctx, db.dsn, true, h.log); err != nil {
		return err
	}
	return serve(ctx, c, serveOptions{
		role: "all", db: db, public: public, admin: admin, log: h.log,
		ready: func(s *server) { h.open(ctx, s, shop, started) },
	})
}

// devAddresses is where dev's parts listen, each as host:port but the mail catcher's URL.
type devAddresses struct{ public, admin, shop, smtp string }

// environ is the environment with dev's own defaults. Mail is always captured: samples must never reach anybody.
func (h *devHouse) environ(secrets devSecrets, at devAddresses) []string {
	shopURL := urlAt(at.shop)
	vars := make(map[string]string, len(h.vars))
	for name, value := range h.vars {
		vars[name] = value
	}
	for name, value := range map[string]string{
		"SMTP_URL": at.smtp, "DATA_DIR": h.dir, "LISTEN_ADDR": at.public, "ADMIN_ADDR": at.admin,
	} {
		if vars[name+"_FILE"] == "" { // left there only where it is at fault
			vars[name] = value
		}
	}
	for name, value := range map[string]string{
		"MODE": "test", "NOTIFY_HOLD": "2s", "NOTIFY_HOLD_WEAK": "2s", "LOG_LEVEL": "warn", "SHUTDOWN_TIMEOUT": "5s",
		"ENCRYPTION_KEY": secrets.EncryptionKey, "STRIPE_WEBHOOK_SECRET": secrets.WebhookSecret, "API_TOKEN": secrets.APIToken,
		"MERCHANT_NAME": "Demo Shop", "MERCHANT_URL": shopURL + "/shop", "MAIL_FROM": "billing@demo-shop.example",
		"MAIL_REPLY_TO": "help@demo-shop.example", "SUPPORT_EMAIL": "help@demo-shop.example", "PAYMENT_URL": shopURL + "/shop/pay/{payment_id}",
	} {
		if vars[name] == "" && vars[name+"_FILE"] == "" {
			vars[name] = value
		}
	}
	_, port, _ := net.SplitHostPort(at.shop)
	origins := []string{shopURL, "http://127.0.0.1:" + port, "http://localhost:" + port}
	if own := vars["CHECKOUT_ORIGINS"]; own != "" {
		origins = append(origins, own)
	}
	if vars["CHECKOUT_ORIGINS_FILE"] == "" {
		vars["CHECKOUT_ORIGINS"] = strings.Join(origins, ",")
	}
	environ := make([]string, 0, len(vars))
	for name, value := range vars {
		environ = append(environ, name+"="+value)
	}
	return environ
}

func orDefault(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// open starts the demo's own parts once the server runs, posts the samples, and tells where to look.
func (h *devHouse) open(ctx context.Context, s *server, shop net.Listener, started time.Time) {
	ctx, h.cancel = context.WithCancel(ctx)
	endpoint := urlOf(s.options.public) + webhook.StripePath
	secret := ""
	if len(s.config.stripeSecrets) > 0 {
		secret = s.config.stripeSecrets[0]
	}
	client := &http.Client{Timeout: 10 * time.Second}
	post := func(ctx context.Context, e sample.Event) error {
		if status, ok := postEvent(ctx, client, endpoint, secret, e); !ok {
			return fmt.Errorf("posting %s: %s", e.Type, status)
		}
		return nil
	}
	h.shop = demo.NewShop(post, 700*time.Millisecond, h.log.Named("shop"))
	console := urlOf(s.options.admin) + "/console"
	h.web = &http.Server{
		Handler: demo.NewWeb(demo.WebConfig{
			Mailbox: h.mailbox, Shop: h.shop, PublicURL: urlOf(s.options.public), ConsoleURL: console, Log: h.log.Named("demo"),
		}),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
	}
	h.running.Go(func() { _ = h.web.Serve(shop) })
	if secret != "" && !h.command.NoSamples {
		h.running.Go(func() { h.postSamples(ctx, post) })
	}
	h.printTable(h.program.stdout, s, urlOf(shop), console, endpoint, secret, time.Since(started))
}

// postSamples posts one payment of each case.
func (h *devHouse) postSamples(ctx context.Context, post func(context.Context, sample.Event) error) {
	seed := mathrand.Uint64() //nolint:gosec // invented ids, not secrets
	for i, c := range sample.Cases() {
		payment, err := sample.Build(c.Name, sample.Params{Seed: seed + uint64(i), Now: time.Now()}) //nolint:gosec // small
		if err != nil {
			h.log.Error("sample.not_built", zap.Error(err))
			return
		}
		h.shop.Know(payment)
		for _, e := range payment.Events {
			if err := post(ctx, e); err != nil && ctx.Err() == nil {
				h.log.Error("sample.not_posted", zap.String("case", c.Name), zap.Error(err))
			}
		}
	}
}

func (h *devHouse) printTable(w io.Writer, s *server, shop, console, endpoint, secret string, took time.Duration) {
	fmt.Fprintf(w, "\nRebound runs (started in %.1f s). Ctrl-C stops all of it.\n\n", took.Seconds())
	token, _, _ := strings.Cut(splitList(s.config.APIToken)[0], "@")
	for _, l := range [][2]string{
		{"Console", console}, {"", "log in with the token " + token},
		{"Demo shop", shop + "/shop"}, {"", "a declined payment, told live"},
		{"Mail", shop + "/mail"}, {"", "what customers got"},
		{"Merchant API", urlOf(s.options.admin) + "/v1/failures"}, {"", "Authorization: Bearer " + token},
		{"Webhook", endpoint}, {"", "signing secret " + secret},
		{"Postgres", s.options.db.about},
		{"Data", h.dir},
	} {
		fmt.Fprintf(w, "  %-13s %s\n", l[0], l[1])
	}
	fmt.Fprintf(w, "\nMore events:       rebound simulate --url %s --secret %s\n", urlOf(s.options.public), secret)
	fmt.Fprintf(w, "Real test events:  stripe listen --forward-to %s\n"+
		"                   (first set STRIPE_WEBHOOK_SECRET to the secret that it prints, and start dev again)\n\n", endpoint)
}
