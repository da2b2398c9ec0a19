//go:build figures

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/store"
)

// TestFigureGrowth compares a database of many stored failures with an empty one, first without any statistics, then
// vacuumed and analysed: the rate at which events come in, in turns, and how long it takes to list a customer's failures.
//
//	go test -tags figures -run TestFigureGrowth -v -timeout 3h ./cmd/rebound
//
// FAILURES (5000000), EVENTS (40000, of each turn), LOOKUPS (5000) and ROUNDS (3) set the size.
func TestFigureGrowth(t *testing.T) {
	failures, events, lookups, rounds := number(t, "FAILURES", 5_000_000), number(t, "EVENTS", 40_000), number(t, "LOOKUPS", 5000), number(t, "ROUNDS", 3)
	hasRoom(t, failures)
	empty := newArena(t)
	full := empty.database("filled")
	customers := full.fill(failures)
	t.Log(full.sizes())

	empties := 0
	for _, phase := range []struct {
		name    string
		prepare []string
	}{
		// A checkpoint has every page written whole once more at its next change: both begin with that.
		{"no statistics", []string{"CHECKPOINT"}},
		{"vacuumed and analysed", []string{"VACUUM (ANALYZE)", "ALTER SYSTEM RESET autovacuum", "SELECT pg_reload_conf()", "CHECKPOINT"}},
	} {
		for _, sql := range phase.prepare {
			full.exec(sql)
		}
		syscall.Sync()
		times, each := full.lookUp(customers, lookups)
		t.Logf("%s: the failures of %d customers: p50 %s, p99 %s, longest %s ms; CPU of each: %s", phase.name, lookups,
			ms(times[lookups/2].Seconds()), ms(times[lookups*99/100].Seconds()), ms(times[lookups-1].Seconds()), each)
		var ratios []float64
		for round := range rounds {
			empties++
			one := empty.database(fmt.Sprintf("empty%d", empties)).ingest(events)
			other := full.ingest(events)
			ratios = append(ratios, other.rate/one.rate)
			t.Logf("round %d: empty %s; full %s", round+1, one, other)
		}
		t.Logf("full beside empty: %.2f × (%.2f–%.2f)", median(ratios), slices.Min(ratios), slices.Max(ratios))
		if times[lookups*99/100] >= 10*time.Millisecond {
			t.Errorf("%s: looking up a customer's failures takes too long", phase.name)
		}
		if median(ratios) < 0.9 {
			t.Errorf("%s: a full database takes too much of the rate", phase.name)
		}
	}
	t.Log(full.sizes())
}

// hasRoom skips the figure where the disk is too small for it.
func hasRoom(t *testing.T, failures int) {
	t.Helper()
	const each, besides = 7 << 10, 8 << 30 // bytes: a failure with its indexes; WAL and the turns
	var disk syscall.Statfs_t
	require.NoError(t, syscall.Statfs(os.TempDir(), &disk))
	if free, needed := int(disk.Bavail)*int(disk.Bsize), failures*each+besides; free < needed {
		t.Skipf("%d failures need %d GiB in %s, and %d are free", failures, needed>>30, os.TempDir(), free>>30)
	}
}

// database makes a further, migrated database on the same Postgres.
func (a *arena) database(name string) *arena {
	a.t.Helper()
	a.exec("CREATE DATABASE " + name)
	b := *a
	b.dsn = a.pg.DSN(name)
	require.NoError(a.t, store.Migrate(context.Background(), b.dsn))
	return &b
}

// intake is what a turn of ingest showed.
type intake struct {
	rate float64
	cpu  cpu
	wal  int64 // bytes per event
}

func (i intake) String() string {
	return fmt.Sprintf("%.0f events/s, CPU of each: %s, WAL of each: %.1f KiB", i.rate, i.cpu, float64(i.wal)/1024)
}

func (a *arena) ingest(events int) (took intake) {
	a.t.Helper()
	address, pid, leave := a.enter("rebound")
	defer leave()
	blast(a.t, address, requests(a.t, rand.Uint64()>>33, 2000))
	all := requests(a.t, rand.Uint64()>>33, events)
	before := a.wal()
	took.cpu = a.spent(pid, events, func() { took.rate = blast(a.t, address, all) })
	took.wal = (a.wal() - before) / int64(events)
	return took
}

func (a *arena) wal() (bytes int64) {
	a.t.Helper()
	a.query(`SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint`, nil, &bytes)
	return bytes
}

// query calls then, if there is one, with each row scanned into the targets.
func (a *arena) query(sql string, then func(), targets ...any) {
	a.t.Helper()
	db, err := pgx.Connect(context.Background(), a.dsn)
	require.NoError(a.t, err)
	defer db.Close(context.Background())
	rows, err := db.Query(context.Background(), sql)
	require.NoError(a.t, err)
	_, err = pgx.ForEachRow(rows, targets, func() error {
		if then != nil {
			then()
		}
		return nil
	})
	require.NoError(a.t, err)
}

// lookUp asks the merchant API for the failures of random customers, one after another, and returns how long each answer
// took, in order of length.
func (a *arena) lookUp(customers, n int) (times []time.Duration, each cpu) {
	a.t.Helper()
	var ids []string
	var id string
	a.query(fmt.Sprintf(`SELECT copied_id(o.customer, spread(n)) FROM (SELECT floor(random() * %d)::bigint AS n FROM generate_series(1, %d)) r
		JOIN originals o ON o.i = n %% %d`, customers, n, originals), func() { ids = append(ids, id) }, &id)
	require.Len(a.t, ids, n)

	admin := freeAddress(a.t)
	_, pid, leave := a.enter("rebound", "ADMIN_ADDR="+admin)
	defer leave()
	// The port is open before the server is: the first to ask would wait for the rest of its start.
	require.Eventually(a.t, func() bool {
		resp, err := http.Get("http://" + admin + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	}, time.Minute, 50*time.Millisecond)
	look := func(id string) {
		req, err := http.NewRequest(http.MethodGet, "http://"+admin+"/v1/failures?customer="+id, nil)
		require.NoError(a.t, err)
		req.Header.Set("Authorization", "Bearer "+e2eToken)
		var page struct {
			Data []struct{ Customer string }
		}
		begun := time.Now()
		resp, err := http.DefaultClient.Do(req)
		require.NoError(a.t, err)
		err = json.NewDecoder(resp.Body).Decode(&page)
		times = append(times, time.Since(begun))
		_ = resp.Body.Close()
		require.NoError(a.t, err)
		require.NotEmpty(a.t, page.Data, id)
		require.Equal(a.t, id, page.Data[0].Customer)
	}
	each = a.spent(pid, n, func() {
		for _, id := range ids {
			look(id)
		}
	})
	slices.Sort(times)
	return times, each
}

// originals is how many failures are copied.
const originals = 200

// An id's copy is of the same length, alphabet and prefix (for Stripe's, and ours that are like them, the digit included), so
// that it falls among the ids to come. It is spread by the number of its payment, or customer, so that an id's copies have as
// little in common as the payments of a year; what follows tells the rows of one payment from each other.
const copiedIDs = `
CREATE FUNCTION spread(n bigint) RETURNS text LANGUAGE sql IMMUTABLE
	RETURN left(translate(encode(sha256(int8send(n)), 'base64'), '+/=', ''), 12);
CREATE FUNCTION copied_id(id text, spread text) RETURNS text LANGUAGE sql IMMUTABLE
	RETURN CASE WHEN id = '' THEN '' ELSE left(overlay(id PLACING CASE WHEN id = lower(id) THEN lower(spread) ELSE spread END
		FROM strpos(id, '_') + 1 + (substr(id, strpos(id, '_') + 1, 1) IN ('1', '3'))::int), length(id)) END`

// fill takes some failures through the door and copies their rows, in Postgres, until there are as many as wanted: every
// copy with a payment of its own, four to a customer, spread over the time that failures are kept. The indexes are made
// afterwards, which takes a fraction of the time; their pages are then nine tenths full, while of indexes that grow with
// their table they are about two thirds. It returns how many customers there are; the n-th has the id
// copied_id(customer of the original, spread(n)).
func (a *arena) fill(failures int) (customers int) {
	a.t.Helper()
	const batch = 10_000
	begun := time.Now()
	address, _, leave := a.enter("rebound")
	blast(a.t, address, requests(a.t, rand.Uint64()>>33, 2*originals))
	leave()
	// Left to itself, Postgres would analyse the tables at some moment of its own.
	for _, sql := range []string{"ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()", copiedIDs,
		`CREATE TABLE originals AS SELECT row_number() OVER () - 1 AS i, payment_id, customer FROM payments`} {
		a.exec(sql)
	}
	// A customer's failures all have the same original, and lie far from each other.
	customers = max(failures/4/originals, 1) * originals
	var statements []string
	for _, table := range grown {
		statements = append(statements, a.copies(table, customers, failures))
	}
	dropped, indexes := a.indexes()
	a.exec(dropped)
	a.each((failures+batch-1)/batch, func(db *pgx.Conn, i int) (err error) {
		for _, sql := range statements {
			if err == nil {
				_, err = db.Exec(context.Background(), sql, i*batch, min((i+1)*batch, failures)-1)
			}
		}
		if (i+1)%50 == 0 {
			a.t.Logf("%d failures after %s", (i+1)*batch, time.Since(begun).Round(time.Second))
		}
		return err
	})
	a.t.Logf("%d failures without indexes after %s", failures, time.Since(begun).Round(time.Second))
	a.each(len(indexes), func(db *pgx.Conn, i int) error {
		_, err := db.Exec(context.Background(), indexes[i])
		return err
	})
	// To make an index counts the rows, which nothing has counted in tables that have grown.
	a.exec("UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE oid IN (SELECT unnest(ARRAY[indrelid, indexrelid]) FROM pg_index WHERE indrelid = " + grownOIDs + ")")
	a.t.Logf("%d failures of %d customers filled in in %s", failures, customers, time.Since(begun).Round(time.Second))
	return customers
}

// each does n pieces of work on two connections. Without merge joins copies are written in the order of their payments.
func (a *arena) each(n int, work func(db *pgx.Conn, i int) error) {
	a.t.Helper()
	var next atomic.Int64
	var workers sync.WaitGroup
	for range 2 {
		db, err := pgx.Connect(context.Background(), a.dsn)
		require.NoError(a.t, err)
		_, err = db.Exec(context.Background(), "SET synchronous_commit = off; SET enable_mergejoin = off; SET maintenance_work_mem = '1GB'; SET max_parallel_maintenance_workers = 0")
		require.NoError(a.t, err)
		workers.Go(func() {
			defer db.Close(context.Background())
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := work(db, i); err != nil {
					a.t.Errorf("filling the tables: %v", err)
					return
				}
			}
		})
	}
	workers.Wait()
	require.False(a.t, a.t.Failed())
}

// grown are the tables that grow with the failures.
var grown = []string{"facts", "payments", "attempts", "notifications"}

var grownOIDs = "ANY('{" + strings.Join(grown, ",") + "}'::regclass[])"

// indexes is what drops the indexes of the tables that grow, and what makes each anew.
func (a *arena) indexes() (drop string, create []string) {
	a.t.Helper()
	var gone, made string
	a.query(`SELECT coalesce('ALTER TABLE ' || indrelid::regclass || ' DROP CONSTRAINT ' || conname, 'DROP INDEX ' || indexrelid::regclass) || ';',
		coalesce('ALTER TABLE ' || indrelid::regclass || ' ADD CONSTRAINT ' || conname || ' ' || pg_get_constraintdef(c.oid), pg_get_indexdef(indexrelid))
		FROM pg_index LEFT JOIN pg_constraint c ON conindid = indexrelid
		WHERE indrelid = `+grownOIDs+` ORDER BY conname, indexrelid`, func() {
		drop, create = drop+gone, append(create, made)
	}, &gone, &made)
	return drop, create
}

// copies is the statement that writes the rows of copies $1 to $2 of a table. It knows columns by their names and types,
// and leaves those that it does not know as they are.
func (a *arena) copies(table string, customers, failures int) string {
	a.t.Helper()
	age := fmt.Sprintf("interval '390 days' * (1 - n / %d.0)", failures) // retention begins at 400
	var names, values []string
	var name, kind string
	a.query(`SELECT attname::text, atttypid::regtype::text FROM pg_attribute
		WHERE attrelid = '`+table+`'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''`, func() {
		value := "t." + name
		switch name {
		case "id", "payment_id", "payment_intent", "charge", "event_id", "failure_id", "message_id":
			value = fmt.Sprintf("copied_id(t.%s, payment)", name)
		case "customer", "method_id", "fingerprint":
			value = fmt.Sprintf("copied_id(t.%s, payer)", name)
		case "contact": // addresses are kept for 30 days
			value = fmt.Sprintf("CASE WHEN %s < interval '29 days' THEN t.contact END", age)
		case "status": // the hold of nearly all is over
			value = "CASE t.status WHEN 'held' THEN 'sent' ELSE t.status END"
		case "sent_at":
			value = fmt.Sprintf("CASE WHEN t.status IN ('held', 'sent') THEN t.created_at - %s END", age)
		case "mailbox":
			value = fmt.Sprintf("CASE WHEN t.status = 'held' THEN sha256(int8send(n %% %d)) END", customers)
		default:
			switch {
			case kind == "timestamp with time zone":
				value = fmt.Sprintf("t.%s - %s", name, age)
			case kind == "bigint" && (name == "created" || strings.HasSuffix(name, "_created")):
				value = fmt.Sprintf("CASE WHEN t.%[1]s > 0 THEN t.%[1]s - extract(epoch FROM %[2]s)::bigint ELSE 0 END", name, age)
			}
		}
		names, values = append(names, name), append(values, value)
	}, &name, &kind)
	a.exec(fmt.Sprintf("CREATE TABLE original_%[1]s AS SELECT o.i, t.* FROM %[1]s t JOIN originals o USING (payment_id)", table))
	return fmt.Sprintf(`INSERT INTO %[1]s (%[2]s) SELECT %[3]s
		FROM (SELECT n, spread(n) AS payment, spread(n %% %[5]d) AS payer FROM generate_series($1::bigint, $2::bigint) n OFFSET 0) copy
		JOIN original_%[1]s t ON t.i = n %% %[4]d`, table, strings.Join(names, ", "), strings.Join(values, ", "), originals, customers)
}

func (a *arena) sizes() string {
	a.t.Helper()
	var table strings.Builder
	fmt.Fprintf(&table, "\n| table | rows | MiB | indexes MiB |\n|---|---|---|---|\n")
	for _, name := range grown {
		var rows, heap, indexes int
		a.query(fmt.Sprintf("SELECT count(*), pg_table_size('%[1]s') >> 20, pg_indexes_size('%[1]s') >> 20 FROM %[1]s", name), nil, &rows, &heap, &indexes)
		fmt.Fprintf(&table, "| %s | %d | %d | %d |\n", name, rows, heap, indexes)
	}
	var all int
	a.query("SELECT pg_database_size(current_database()) >> 20", nil, &all)
	fmt.Fprintf(&table, "the database: %d MiB", all)
	return table.String()
}
