package store_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"rebound/store"
	"rebound/store/storetest"
)

// TestRowsOfAGroupAreWrittenAsRowsAlone holds our own arrays against pgx's values: a row alone is written by them.
func TestRowsOfAGroupAreWrittenAsRowsAlone(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			writeAloneAndAsAGroup(t, openPool(t, inMode(t, mode), 1))
		})
	}
}

// inMode is the connection string of a new database, with pgx's way to send statements.
func inMode(t *testing.T, mode string) (dsn string) {
	t.Helper()
	u, err := url.Parse(storetest.New(t))
	require.NoError(t, err)
	q := u.Query()
	q.Set("default_query_exec_mode", mode)
	u.RawQuery = q.Encode()
	return u.String()
}

func TestAWayToSendStatementsThatDoesNotDescribeThemIsRefused(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"exec", "simple_protocol"} {
		_, err := store.ParseDSN(inMode(t, mode))
		require.ErrorContains(t, err, "default_query_exec_mode")
	}
}

func writeAloneAndAsAGroup(t *testing.T, s *store.Store) {
	t.Helper()
	at := []time.Time{
		time.Date(1969, 7, 20, 20, 17, 40, 123456999, time.UTC), time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2026, 10, 25, 2, 30, 0, 999999000, time.FixedZone("", 2*60*60)), time.Date(2099, 12, 31, 23, 59, 59, 1000, time.UTC),
	}
	texts := []string{"", `{"a", NULL}\`, "née 猫 😀", strings.Repeat("x", 3000)}
	numbers := []int64{0, -1, 1 << 62, 4200}
	hashes := [][]byte{nil, {}, {0, 255}, {1}}

	changes := func(i int, prefix string) (c store.Changes) {
		k := store.PaymentKey{PaymentID: fmt.Sprint("pi_", prefix, i), Source: "stripe", Account: texts[i][:min(len(texts[i]), 9)], Livemode: i%2 == 0}
		var maybe *time.Time
		var words []string
		if i > 1 {
			maybe, words = &at[i], []string{"request=2", "cvc=1"}
		}
		c.Facts = []store.Fact{{PaymentKey: k, EventID: "evt_1", EventType: "charge.failed", Created: numbers[i], ReceivedAt: at[i],
			Object: "charge", ErrorMessage: texts[i], Amount: numbers[i], Moto: i == 2, ClientSecretHash: hashes[i], Contact: hashes[i]}}
		c.Payments = []store.Payment{{PaymentKey: k, Status: texts[i], ClientSecretHash: hashes[i], FailedReceivedAt: maybe, Amount: numbers[i], CreatedAt: at[i]}}
		c.Attempts = []store.Attempt{{PaymentKey: k, ID: fmt.Sprint("fl_", prefix, i), Result: "failed", OccurredAt: at[i], ReceivedAt: at[i], Category: texts[i],
			ErrorMessage: texts[i], ExpYear: numbers[i], Disclosable: i == 1, RetryNotBefore: maybe, Evidence: words}}
		c.Notifications = []store.Notification{{PaymentKey: k, ID: fmt.Sprint("nt_", prefix, i), Channel: store.ChannelEmail, Status: store.Held, DueAt: at[i],
			SentAt: maybe, ShownCode: texts[i], CreatedAt: at[i], UpdatedAt: at[i]}}
		return c
	}
	save := func(c store.Changes) {
		require.NoError(t, s.InIngest(t.Context(), func(in *store.Ingest) error { return in.Save(t.Context(), c) }))
	}
	var group store.Changes
	for i := range at {
		save(changes(i, "alone"))
		c := changes(i, "group")
		group.Facts, group.Payments = append(group.Facts, c.Facts...), append(group.Payments, c.Payments...)
		group.Attempts, group.Notifications = append(group.Attempts, c.Attempts...), append(group.Notifications, c.Notifications...)
	}
	save(group)

	for _, table := range []string{"facts", "payments", "attempts", "notifications"} {
		read := func(prefix string) (all []string) {
			rows, err := s.Pool().Query(t.Context(), `SELECT replace(to_jsonb(t)::text, $1, '') FROM `+table+` t WHERE payment_id LIKE $2 ORDER BY payment_id`, prefix, "pi_"+prefix+"%")
			require.NoError(t, err)
			all, err = pgx.CollectRows(rows, pgx.RowTo[string])
			require.NoError(t, err)
			require.Len(t, all, len(at), table)
			return all
		}
		require.Equal(t, read("alone"), read("group"), table)
	}
}

func TestTextThatCannotBeStoredIsADataErrorWhereverItStands(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	for name, f := range map[string]store.Fact{
		"NUL in a column":     {EventType: "charge.\x00failed"},
		"NUL in a detail":     {ErrorMessage: "\x00"},
		"no UTF-8, column":    {EventType: "charge.\xff"},
		"half a character":    {ErrorMessage: "\xe7\x8c"},
		"no UTF-8 in account": {PaymentKey: store.PaymentKey{Account: "\xff"}},
	} {
		for _, rows := range []int{1, 2} {
			facts := make([]store.Fact, rows)
			for i := range facts {
				facts[i] = f
				facts[i].EventID = fmt.Sprint("evt_", i)
			}
			err := s.InIngest(t.Context(), func(in *store.Ingest) error { return in.Save(t.Context(), store.Changes{Facts: facts}) })
			require.True(t, store.IsDataError(err), "%s, %d rows: %v", name, rows, err)
		}
	}
}

func TestColumnsAreThemselvesInWhateverOrderAStatementTakesThem(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	columns, err := store.FactArrays([]store.Fact{
		{PaymentKey: store.PaymentKey{PaymentID: "pi_1", Source: "stripe", Account: "acct_1"}},
		{PaymentKey: store.PaymentKey{PaymentID: "pi_2", Source: "frame"}},
	})
	require.NoError(t, err)
	for _, order := range [][3]int{{0, 1, 2}, {1, 0, 2}, {0, 2, 1}, {0, 0, 1}, {2, 1, 0}} {
		var got [3][]string
		require.NoError(t, s.Pool().QueryRow(t.Context(), `SELECT $1::text[], $2::text[], $3::text[]`,
			columns[order[0]], columns[order[1]], columns[order[2]]).Scan(&got[0], &got[1], &got[2]))
		for i, column := range order {
			require.Equal(t, [][]string{{"pi_1", "pi_2"}, {"stripe", "frame"}, {"acct_1", ""}}[column], got[i], "%v", order)
		}
	}
}

func TestAGroupThatOutgrowsItsConnectionsRoomIsWrittenWhole(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	for group, rows := range []int{2, 400, 3} { // on one connection, which keeps its room
		facts := make([]store.Fact, rows)
		for i := range facts {
			facts[i] = store.Fact{
				PaymentKey: store.PaymentKey{PaymentID: fmt.Sprint("pi_", group), Source: "stripe"}, EventID: fmt.Sprint("evt_", i),
				EventType: "charge.failed", ErrorMessage: strings.Repeat(fmt.Sprint(i%10), 3000),
			}
		}
		save := func() error {
			return s.InIngest(t.Context(), func(in *store.Ingest) error { return in.Save(t.Context(), store.Changes{Facts: facts}) })
		}
		facts[rows-1].APIVersion = "\x00"
		require.True(t, store.IsDataError(save()), "what is rolled back leaves nothing for the next")
		facts[rows-1].APIVersion = ""
		require.NoError(t, save())
		var whole int
		require.NoError(t, s.Pool().QueryRow(t.Context(), `SELECT count(*) FROM facts WHERE payment_id = $1 AND detail::json->>'em' =
			repeat((substr(event_id, 5)::int % 10)::text, 3000)`, fmt.Sprint("pi_", group)).Scan(&whole))
		require.Equal(t, rows, whole)
	}
}
