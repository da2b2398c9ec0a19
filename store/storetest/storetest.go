// Package storetest gives each test a database of its own on a real PostgreSQL.
//
// A package that uses it has
//
//	func TestMain(m *testing.M) { storetest.Main(m) }
//
// and calls New in its tests. The server is DATABASE_URL's, when that is set (the
// role needs CREATEDB), else a private one that starts with the first New and
// ends with the test binary; its binaries are found or fetched as `rebound dev`
// does it. A missing server fails the test: it never skips.
package storetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"rebound/store"
	"rebound/store/localpg"
)

// limit bounds one step (start, migration, create, drop) on a loaded machine.
const limit = 5 * time.Minute

// Main runs the tests and then stops and removes whatever New started. It does
// not return.
func Main(m *testing.M) {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		_ = shared.close() // the exit code tells of the interruption already
		os.Exit(1)
	}()
	code := m.Run()
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, "storetest:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// New returns the connection string of a new, migrated database that is dropped
// when the test ends. Connections that the test leaves open do not hinder that.
func New(t testing.TB) (dsn string) {
	t.Helper()
	template, err := shared.migrated()
	if err != nil {
		t.Fatalf("preparing a database to clone: %v", err)
	}
	return create(t, template)
}

// NewEmpty is New without the migrations.
func NewEmpty(t testing.TB) (dsn string) {
	t.Helper()
	return create(t, "template0")
}

func create(t testing.TB, template string) string {
	t.Helper()
	if err := shared.start(); err != nil {
		t.Fatalf("starting PostgreSQL for the tests: %v", err)
	}
	name := shared.name()
	if err := shared.exec("CREATE DATABASE " + name + " TEMPLATE " + template); err != nil {
		t.Fatalf("creating database %s: %v", name, err)
	}
	t.Cleanup(func() {
		if err := shared.exec("DROP DATABASE IF EXISTS " + name + " WITH (FORCE)"); err != nil {
			t.Errorf("dropping database %s: %v", name, err)
		}
	})
	return shared.dsn(name)
}

var errClosed = errors.New("the tests were interrupted")

// shared is the server of this test binary.
var shared = &server{}

type server struct {
	startOnce   sync.Once
	startErr    error
	migrateOnce sync.Once
	migrateErr  error

	private *localpg.Server // nil with DATABASE_URL
	prefix  string          // of the names of this binary's databases
	dsn     func(database string) string

	mu     sync.RWMutex // read-locked while a statement runs, so that close misses no database
	closed bool
	count  int
}

func (s *server) start() error {
	s.startOnce.Do(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed {
			s.startErr = errClosed
			return
		}
		// Many test binaries may share one DATABASE_URL.
		s.prefix = strings.ToLower("rebound_test_" + rand.Text()[:12])
		if given := os.Getenv("DATABASE_URL"); given != "" {
			s.dsn, s.startErr = within(given)
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		s.private, s.startErr = localpg.Start(ctx, localpg.Config{Ephemeral: true, Progress: os.Stderr})
		if s.startErr == nil {
			s.dsn = s.private.DSN
		}
	})
	return s.startErr
}

// within returns given with its database replaced.
func within(given string) (func(string) string, error) {
	if _, err := pgx.ParseConfig(given); err != nil {
		return nil, errors.New("DATABASE_URL is not a connection string") // pgx's error may hold its password
	}
	if u, err := url.Parse(given); err == nil && (u.Scheme == "postgres" || u.Scheme == "postgresql") {
		return func(database string) string {
			other := *u
			other.Path = "/" + database
			return other.String()
		}, nil
	}
	// Keywords and values: the last of two equal keywords holds.
	return func(database string) string { return given + " dbname=" + database }, nil
}

func (s *server) migrated() (template string, err error) {
	if err := s.start(); err != nil {
		return "", err
	}
	template = s.prefix + "_template"
	s.migrateOnce.Do(func() {
		if s.migrateErr = s.exec("CREATE DATABASE " + template + " TEMPLATE template0"); s.migrateErr != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := store.Migrate(ctx, s.dsn(template)); err != nil {
			s.migrateErr = fmt.Errorf("migrating: %w", err)
		}
	})
	return template, s.migrateErr
}

func (s *server) name() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	return fmt.Sprintf("%s_%d", s.prefix, s.count)
}

// exec runs one statement in the server's own database. Each has a connection
// of its own: kept ones would be goroutines that a leak check finds.
func (s *server) exec(sql string) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return errClosed
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.dsn("postgres"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

func (s *server) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if s.private != nil {
		return s.private.Stop(ctx)
	}
	if s.dsn == nil {
		return nil
	}
	return s.dropAll(ctx)
}

// dropAll removes this binary's databases from a server that lives on: the
// template and, after an interruption, those of the tests that were running.
func (s *server) dropAll(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.dsn("postgres"))
	if err != nil {
		return err
	}
	rows, _ := conn.Query(ctx, "SELECT datname FROM pg_database WHERE starts_with(datname, $1)", s.prefix)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string]) // reports Query's error too
	for _, name := range names {
		_, dropErr := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
		err = errors.Join(err, dropErr)
	}
	return errors.Join(err, conn.Close(ctx))
}
