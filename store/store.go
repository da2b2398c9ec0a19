// Package store keeps what Rebound knows in Postgres, one file per table or question. It knows rows, not their meaning.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"

	"rebound/store/seal"
)

// Config is what a Store needs.
type Config struct {
	DSN      string
	Keys     []seal.Key       // the first encrypts, all decrypt
	MaxConns int32            // 0: 16
	Now      func() time.Time // this machine's clock; nil: time.Now
	Log      *zap.Logger
}

// Store is a pool of connections with the keys that seal what is written. It is safe for concurrent use.
type Store struct {
	pool   *pgxpool.Pool
	ingest *pgxpool.Pool // for InIngest alone: what else waits for Postgres must not delay an answer
	sealer *seal.Sealer
	hasher *seal.Hasher
	jobs   *river.Client[pgx.Tx] // inserts only; workers have a client of their own
	now    func() time.Time      // this machine's clock; what is written goes by Now
	clock  atomic.Pointer[clockReading]
	log    *zap.Logger
}

// ErrKeys is returned where none of the keys is one that the database's own key is wrapped by.
var ErrKeys = errors.New("no key fits this database")

// Open connects, and unwraps the keys of hashes, making them at the very first start.
// Close releases the connections.
func Open(ctx context.Context, c Config) (*Store, error) {
	sealer, err := seal.NewSealer(c.Keys)
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	pool, err := connect(ctx, c.DSN, c.MaxConns)
	if err != nil {
		return nil, err
	}
	ingest, err := connect(ctx, c.DSN, maxIngests)
	if err != nil {
		pool.Close()
		return nil, err
	}
	s := &Store{pool: pool, ingest: ingest, sealer: sealer, now: c.Now, log: c.Log}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	if s.hasher, err = s.rootHasher(ctx); err != nil {
		closePool(ctx, pool)
		ingest.Close()
		return nil, err
	}
	if s.jobs, err = river.NewClient(riverpgxv5.New(pool), &river.Config{
		Logger: slog.New(zapslog.NewHandler(s.log.Named("river").WithOptions(zap.IncreaseLevel(zap.WarnLevel)).Core())),
	}); err != nil {
		s.Close()
		return nil, fmt.Errorf("making the job client: %w", err)
	}
	return s, nil
}

// closePool closes a pool. Where ctx has ended nobody waits for it: on a connection of a question that was given up, a server that
// is silent would take a quarter of a minute.
func closePool(ctx context.Context, pool *pgxpool.Pool) {
	if ctx.Err() != nil {
		go pool.Close()
		return
	}
	pool.Close()
}

// byIndexes are settings that plan a statement once, not for each of its arguments, which takes longer than to run it; and
// that keep every plan to indexes, whatever is known of the tables. Without statistics Postgres expects a large part of a
// large table: it would read all rows of it to find the few claimed mails, start workers and compile the plan.
var byIndexes = map[string]string{
	"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "enable_bitmapscan": "off", "enable_hashjoin": "off",
	"enable_mergejoin": "off", "max_parallel_workers_per_gather": "0", "jit": "off",
}

// promised are settings that the store's promises rest on, whatever the database's or the role's defaults are: an answer of 2xx
// means that the event is on disk, and what is read after a lock is what its last holder committed.
var promised = map[string]string{"synchronous_commit": "on", "default_transaction_isolation": "read committed"}

// ParseDSN reads a connection string, or says what it is in place of a usable one. The error holds nothing of it, since that
// may be the password.
func ParseDSN(dsn string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New("is not a Postgres connection string, such as postgres://user:password@host:5432/rebound")
	}
	switch config.ConnConfig.DefaultQueryExecMode {
	case pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol: // what they send in place of our arrays would be refused
		return nil, errors.New("has a default_query_exec_mode that cannot be used: it must be cache_statement, cache_describe or describe_exec")
	}
	return config, nil
}

func connect(ctx context.Context, dsn string, maxConns int32) (*pgxpool.Pool, error) {
	config, err := ParseDSN(dsn)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL %w", err)
	}
	config.MaxConns = maxConns
	if config.MaxConns == 0 {
		config.MaxConns = 16
	}
	config.ConnConfig.ConnectTimeout = 3 * time.Second
	config.ConnConfig.DialFunc = dialer.DialContext
	params := config.ConnConfig.RuntimeParams
	maps.Copy(params, byIndexes)
	maps.Copy(params, promised)
	setDefault(params, "application_name", "rebound")
	setDefault(params, "timezone", "UTC")
	// A lost host must free its locks in seconds; Linux's own default is two hours.
	setDefault(params, "tcp_keepalives_idle", "10")
	setDefault(params, "tcp_keepalives_interval", "5")
	setDefault(params, "tcp_keepalives_count", "3")
	// A replica that stands still inside a transaction must not hold its locks for as long; less than a group may take, so
	// that what waits for them still ends well.
	setDefault(params, "idle_in_transaction_session_timeout", "2s")
	config.AfterConnect = takeEncodedArrays
	config.PrepareConn = notReadOnlyAgain
	config.ShouldPing = func(_ context.Context, c pgxpool.ShouldPingParams) bool { return c.IdleDuration > longRest }
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connecting to Postgres: %w", err)
	}
	return pool, nil
}

// lostAfter is how long a host may acknowledge nothing before its connections are given up. A query has no such bound: the
// job queue's have none at all, and one that waited for a host which was replaced would end the sending of mails with it.
const lostAfter = 15 * time.Second

// dialer makes connections that end when their other host is gone, those that only wait too.
var dialer = &net.Dialer{
	KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3},
	Control:         giveUpUnanswered,
}

// longRest is the rest after which a connection is tried before it is used. Postgres takes about as long to come back from a
// crash, so whoever asks when it is back does not meet a connection that the crash broke. Who asks now and then pays a round
// trip for it.
const longRest = 100 * time.Millisecond

// notReadOnlyAgain gives up a session that is read-only and was so at an earlier use: it may stay so long after the server is
// not, and the next one is to be a new one. It looks before the use, not after it, since the pool would do that in the
// background: then what comes next finds the connection not back yet, and takes another, whose process has nothing of the
// work in its caches. The pool tries one connection more than it may have, so whoever asks alone comes to a new one.
func notReadOnlyAgain(_ context.Context, c *pgx.Conn) (bool, error) {
	const used = "rebound.used"
	if c.PgConn().ParameterStatus("default_transaction_read_only") != "on" && c.PgConn().ParameterStatus("in_hot_standby") != "on" {
		return true, nil
	}
	again := c.PgConn().CustomData()[used] != nil
	c.PgConn().CustomData()[used] = true
	return !again, nil
}

func setDefault(m map[string]string, key, value string) {
	if _, set := m[key]; !set {
		m[key] = value
	}
}

// rootHasher reads the key that ids and address hashes are made with. It is made once: with another key every id would
// change.
func (s *Store) rootHasher(ctx context.Context) (*seal.Hasher, error) {
	const name = "hash"
	if _, err := s.pool.Exec(ctx, `INSERT INTO keys (name, wrapped) VALUES ($1, $2) ON CONFLICT DO NOTHING`,
		name, s.sealer.Wrap(seal.NewRootKey())); err != nil {
		return nil, fmt.Errorf("making the hash key: %w", err)
	}
	var wrapped []byte
	if err := s.pool.QueryRow(ctx, `SELECT wrapped FROM keys WHERE name = $1`, name).Scan(&wrapped); err != nil {
		return nil, fmt.Errorf("reading the hash key: %w", err)
	}
	root, rewrap, err := s.sealer.Unwrap(wrapped)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeys, err)
	}
	if rewrap {
		if _, err := s.pool.Exec(ctx, `UPDATE keys SET wrapped = $2 WHERE name = $1`, name, s.sealer.Wrap(root)); err != nil {
			return nil, fmt.Errorf("wrapping the hash key anew: %w", err)
		}
	}
	return seal.NewHasher(root), nil
}

// Close releases the connections; what runs on them ends first.
func (s *Store) Close() {
	s.pool.Close()
	s.ingest.Close()
}

// Pool is for what brings its own queries: River's workers and tests.
func (s *Store) Pool() *pgxpool.Pool { return s.pool }

// HashClientSecret is the keyed hash by which a checkout page's client secret is recognised.
func (s *Store) HashClientSecret(secret string) []byte { return s.hasher.HashClientSecret(secret) }

// HashMailbox is the keyed hash of a normalised mailbox.
func (s *Store) HashMailbox(mailbox string) []byte { return s.hasher.HashMailbox(mailbox) }

// AttemptID is the id of an attempt: the same attempt has the same id however often it is derived, also once its
// customer was erased.
func (s *Store) AttemptID(prefix string, k PaymentKey, attemptKey string) string {
	return s.hasher.ID(prefix+near(k.PaymentID), "attempt", k.Source, k.Account, strconv.FormatBool(k.Livemode), k.PaymentID, s.anonymousKey(attemptKey))
}

// NotificationID is the key that makes a notification unique: a payment has one per channel and template, and, where
// each attempt has its own, per attempt (scope, else "").
func (s *Store) NotificationID(k PaymentKey, channel, template, scope string) string {
	return s.hasher.ID("nt_"+near(k.PaymentID), "notification", k.Source, k.Account, strconv.FormatBool(k.Livemode), k.PaymentID, channel, template, s.anonymousKey(scope))
}

// near makes an id begin as the payment's does. Stripe's ids begin with the time, so rows that are written together lie
// together in the index, which otherwise touches a page of its own for each, the slower the more there are.
func near(paymentID string) string {
	_, rest, _ := strings.Cut(paymentID, "_")
	rest = rest[:min(len(rest), 6)]
	if strings.ContainsFunc(rest, func(r rune) bool { return r >= unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		return ""
	}
	return strings.ToLower(rest)
}

// ReadOnly tells whether Postgres answers but takes no writes: it is a standby, or has been made read-only. Where no connection
// records deliveries yet it asks on one of those: that there is none to be had is an error.
func (s *Store) ReadOnly(ctx context.Context) (readOnly bool, err error) {
	pool := s.pool
	if stat := s.ingest.Stat(); stat.AcquiredConns()+stat.IdleConns() == 0 {
		pool = s.ingest
	}
	if err := pool.QueryRow(ctx, `SELECT current_setting('transaction_read_only')::boolean`).Scan(&readOnly); err != nil {
		return false, fmt.Errorf("asking Postgres whether it takes writes: %w", err)
	}
	return readOnly, nil
}
