package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"strings"
	"time"

	"go.uber.org/zap"

	"rebound/store"
)

type serveCommand struct {
	Role       string `enum:"all,ingest,work" default:"all" help:"ingest receives and answers, work sends, all does both."`
	NoDownload bool   `help:"Never fetch Postgres when there is none and DATABASE_URL is empty."`
}

// Run serves until ctx ends, and then finishes what is in flight.
func (s *serveCommand) Run(ctx context.Context, p *program) error {
	c, err := loadConfig(p.environ, forServing)
	if err != nil {
		return err
	}
	if err := c.resolveListeners(ctx); err != nil {
		return err
	}
	log, err := newLogger(p.stderr, c.LogLevel, c.LogFormat)
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }() // a terminal cannot be synced
	return unlessEnded(ctx, s.serve(ctx, c, p, log))
}

func (s *serveCommand) serve(ctx context.Context, c *config, p *program, log *zap.Logger) error {
	db, err := openDatabase(ctx, c, s.NoDownload, log.Sugar().Infof, p.stderr)
	if err != nil {
		return err
	}
	defer db.stop()
	if err := prepareSchema(ctx, db.dsn, c.MigrateOnStart, log); err != nil {
		return err
	}
	public, admin, err := listen(c)
	if err != nil {
		return err
	}
	return serve(ctx, c, serveOptions{role: s.Role, db: db, public: public, admin: admin, log: log})
}

// tuneMemory trades memory for fewer collections, in which an event spends a fifth of its time, and a short command as
// much. A limit keeps the heap from running away; both yield to the runtime's own variables.
func tuneMemory(environ []string) {
	// In bytes: far above what a busy replica uses, and below the 512 MiB after which the README's unit file lets it be
	// killed, which count more than the heap.
	const limit = 384 << 20
	set := func(name string) bool {
		for _, v := range environ {
			if strings.HasPrefix(v, name+"=") {
				return true
			}
		}
		return false
	}
	if !set("GOGC") {
		debug.SetGCPercent(400)
	}
	if !set("GOMEMLIMIT") {
		debug.SetMemoryLimit(limit)
	}
}

// connectFor is how long a server waits at its start for a Postgres that does not answer yet.
const connectFor = 30 * time.Second

// prepareSchema checks that the schema is this program's, or makes it so.
func prepareSchema(ctx context.Context, dsn string, migrate bool, log *zap.Logger) error {
	deadline := time.Now().Add(connectFor)
	for {
		var err error
		if migrate {
			err = store.Migrate(ctx, dsn)
		} else {
			err = store.CheckSchema(ctx, dsn)
		}
		if !unreachable(err) || time.Now().After(deadline) {
			return err
		}
		log.Warn("postgres.unreachable", zap.Error(err))
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for Postgres: %w", ctx.Err())
		case <-time.After(2 * time.Second):
		}
	}
}

// listen opens both listeners, so that a busy port ends the program before anything has begun.
func listen(c *config) (public, admin net.Listener, err error) {
	if public, err = net.Listen("tcp", c.ListenAddr); err != nil {
		return nil, nil, fmt.Errorf("listening on LISTEN_ADDR: %w", err)
	}
	if admin, err = net.Listen("tcp", c.AdminAddr); err != nil {
		_ = public.Close()
		return nil, nil, fmt.Errorf("listening on ADMIN_ADDR: %w", err)
	}
	return public, admin, nil
}

// urlOf is how this machine reaches a listener.
func urlOf(l net.Listener) string { return urlAt(l.Addr().String()) }

func urlAt(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "http://" + address
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port)
}

type serveOptions struct {
	role          string
	db            *database
	public, admin net.Listener
	log           *zap.Logger
	ready         func(*server) // called when everything runs; may be nil
}

// serve runs the parts of a role until ctx ends. It owns the listeners.
func serve(ctx context.Context, c *config, o serveOptions) error {
	for _, w := range c.warnings {
		o.log.Warn("config.warning", zap.String("warning", w))
	}
	if c.PublicURL == "" {
		c.PublicURL = urlOf(o.public)
	}
	s, err := newServer(ctx, c, o)
	if err != nil {
		_ = o.public.Close()
		_ = o.admin.Close()
		return err
	}
	o.log.Info("config.loaded", append(c.summary(), zap.String("role", o.role), zap.String("database", o.db.about))...)
	if err := s.start(ctx); err != nil {
		s.stop()
		return err
	}
	o.log.Info("server.listening", zap.String("listen_addr", o.public.Addr().String()),
		zap.String("admin_addr", o.admin.Addr().String()), zap.String("public_url", c.PublicURL), zap.String("role", o.role))
	if o.ready != nil {
		o.ready(s)
	}
	select {
	case <-ctx.Done():
		o.log.Info("server.stopping", zap.Duration("within", c.ShutdownTimeout))
	case err = <-s.failed:
		o.log.Error("server.failed", zap.Error(err))
	case <-o.db.failed:
		err = errors.New("the private Postgres has ended")
		o.log.Error("server.failed", zap.Error(err))
	}
	s.stop()
	o.log.Info("server.stopped")
	return err
}
