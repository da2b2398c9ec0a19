package webhook

import (
	"testing"

	"github.com/stretchr/testify/require"

	"rebound/handler"
)

func TestAnOrderReferenceIsAnInvoiceOnlyWhenItLooksLikeOne(t *testing.T) {
	t.Parallel()
	for reference, invoice := range map[string]string{
		"in_1MtHbELkdIwHu7ixl4OzzPMv": "in_1MtHbELkdIwHu7ixl4OzzPMv", "in_7": "in_7", "in_G": "in_G",
		"in_store": "", "in_Store": "", "in_NewYork": "", "in_NYC": "", "in_": "", "in_2026-11": "", "in_transit 9": "", "order_1": "", "": "",
	} {
		var f handler.Fact
		(&stripeObject{orderReference: reference}).invoiceOf(&f)
		require.Equal(t, invoice, f.Invoice, reference)
		require.Equal(t, reference, f.OrderReference)
	}
	var f handler.Fact
	(&stripeObject{orderReference: "order_1", invoice: "in_7"}).invoiceOf(&f)
	require.Equal(t, "in_7", f.Invoice)
}
