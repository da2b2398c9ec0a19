package console

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"rebound/store"
	"rebound/store/seal"
	"rebound/store/storetest"
)

func ready(h *Health) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.Readyz(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	return w
}

func TestReadinessIsAskedOnceInTwoSecondsAndTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		var broken atomic.Bool
		h := NewHealth(func(ctx context.Context) error {
			asked.Add(1)
			if broken.Load() {
				<-ctx.Done() // a database that does not answer at all
				return ctx.Err()
			}
			return nil
		}, nil, nil)
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { ready(h) })
		}
		all.Wait()
		require.Equal(t, http.StatusOK, ready(h).Code)
		require.EqualValues(t, 1, asked.Load())
		broken.Store(true)
		began := time.Now()
		for ready(h).Code == http.StatusOK {
			<-time.After(100 * time.Millisecond)
		}
		require.Less(t, time.Since(began), 5*time.Second)
		broken.Store(false)
		began = time.Now()
		for ready(h).Code != http.StatusOK {
			<-time.After(100 * time.Millisecond)
		}
		require.Less(t, time.Since(began), 5*time.Second)
	})
}

// Whoever came while Postgres was silent would else be asked for anew, two seconds each and one after another.
func TestWhoWaitedForASilentDatabaseGetsTheAnswerThatTheyWaitedFor(t *testing.T) {
	t.Parallel()
	now, asked := start, 0
	h := NewHealth(func(context.Context) error {
		asked++
		now = now.Add(readyTimeout)
		return context.DeadlineExceeded
	}, func() time.Time { return now }, nil)
	for range 50 {
		require.Equal(t, http.StatusServiceUnavailable, ready(h).Code)
	}
	require.Equal(t, 1, asked)
	now = now.Add(readyCached)
	ready(h)
	require.Equal(t, 2, asked)
}

func TestACallerThatGoesAwayDoesNotSpoilTheAnswer(t *testing.T) {
	t.Parallel()
	h := NewHealth(func(ctx context.Context) error { return ctx.Err() }, nil, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := httptest.NewRecorder()
	h.Readyz(w, httptest.NewRequest(http.MethodGet, "/readyz", nil).WithContext(ctx))
	require.Equal(t, http.StatusOK, w.Code)
}

func TestAReasonIsToldAndNoMore(t *testing.T) {
	t.Parallel()
	w := ready(NewHealth(func(context.Context) error { return errors.New("dial db.internal:5432: password=secret") }, nil, nil))
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.JSONEq(t, `{"status":"unavailable","reason":"postgres_unreachable"}`, w.Body.String())
	require.NotEmpty(t, w.Header().Get("Retry-After"))
	w = httptest.NewRecorder()
	NewHealth(nil, nil, nil).Healthz(w, httptest.NewRequest(http.MethodGet, "/healthz", nil))
	require.JSONEq(t, `{"status":"ok"}`, w.Body.String())
}

func TestReadyMeansSchemaAndClockToo(t *testing.T) {
	t.Parallel()
	keys, err := seal.ParseKeys(seal.GenerateKey())
	require.NoError(t, err)
	dsn := storetest.New(t)
	var skew atomic.Int64
	s, err := store.Open(t.Context(), store.Config{DSN: dsn, Keys: keys, MaxConns: 2, Now: func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	check := Ready(s)
	require.NoError(t, check(t.Context()))
	for _, off := range []time.Duration{119 * time.Second, -119 * time.Second} {
		skew.Store(int64(off))
		require.NoError(t, check(t.Context()))
	}
	for _, off := range []time.Duration{125 * time.Second, -125 * time.Second} {
		skew.Store(int64(off))
		require.ErrorIs(t, check(t.Context()), reasonClock)
	}
	skew.Store(0)
	exec := func(sql string) {
		_, err := s.Pool().Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	alter := func(change string) {
		exec(`BEGIN READ WRITE; DO $$ BEGIN EXECUTE format('ALTER DATABASE %I ` + change + `', current_database()); END $$; COMMIT`)
	}
	alter(`SET default_transaction_read_only = on`)
	s.Pool().Reset() // it is for sessions to come
	require.ErrorIs(t, check(t.Context()), reasonReadOnly)
	alter(`RESET default_transaction_read_only`)
	require.NoError(t, check(t.Context()), "no session that began read-only is kept")
	exec(`UPDATE goose_db_version SET version_id = version_id + 1000 WHERE version_id > 0`)
	require.NoError(t, check(t.Context()), "a newer schema is fine: migrations only add")
	exec(`DELETE FROM goose_db_version WHERE version_id > 0`)
	require.ErrorIs(t, check(t.Context()), reasonSchema)
	exec(`DROP TABLE goose_db_version`)
	require.ErrorIs(t, check(t.Context()), reasonSchema)
	s.Close()
	require.Error(t, check(t.Context()))
}
