package store_test

import (
	"cmp"
	"testing"

	"github.com/stretchr/testify/require"

	"rebound/store"
)

func TestWhatIsPutOfAnErasedCustomerIsNotKept(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	_, err := s.Erase(t.Context(), store.Erasure{Customer: "cus_erased"})
	require.NoError(t, err)
	for _, id := range []string{"cus_erased", "cus_other"} {
		require.NoError(t, s.PutContact(t.Context(), store.CustomerKey{CustomerID: id, Source: "stripe"}, "buyer@example.com", "de", "Europe/Berlin"))
	}
	var kept string
	require.NoError(t, s.Pool().QueryRow(t.Context(), `SELECT string_agg(customer_id, ' ') FROM contacts`).Scan(&kept))
	require.Equal(t, "cus_other", kept)
}

func TestTheLanguageThatWasPutGoesBeforeTheRecords(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	_, err := s.Pool().Exec(t.Context(), `INSERT INTO customers VALUES ('cus_1', 'stripe', '', false, 1, 'evt_1', false, NULL, 'de', 1)`)
	require.NoError(t, err)
	for _, put := range []string{"", "fr"} {
		require.NoError(t, s.PutContact(t.Context(), store.CustomerKey{CustomerID: "cus_1", Source: "stripe"}, "buyer@example.com", put, ""))
		to, err := s.Recipient(t.Context(), store.PaymentKey{PaymentID: "pi_1", Source: "stripe"}, "cus_1")
		require.NoError(t, err)
		require.Equal(t, cmp.Or(put, "de"), to.Locale)
	}
}
