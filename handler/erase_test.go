package handler

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rebound/store"
	"rebound/store/job"
)

// byMailbox asks for whoever can be reached at an address.
func byMailbox(address string) store.Erasure {
	return store.Erasure{Mailbox: address, Normalise: func(address string) (string, bool) {
		local, domain, ok := strings.Cut(address, "@")
		return strings.ToLower(address), ok && local != "" && strings.HasSuffix(domain, ".com")
	}}
}

func (c clocked) erase(t *testing.T, e store.Erasure) store.Erased {
	t.Helper()
	erased, err := c.store.Erase(t.Context(), e)
	require.NoError(t, err)
	return erased
}

// names counts, over all that is stored in clear, how often somebody is named.
func (c clocked) names(t *testing.T, words ...string) map[string]int {
	t.Helper()
	all := c.dump(t)
	found := make(map[string]int)
	for _, word := range words {
		if n := strings.Count(all, word); n > 0 {
			found[word] = n
		}
	}
	return found
}

// jenny has three payments: only one tells her address, and only the others her customer's second card. A look-up waits,
// and events that cannot be used name her by each of her ids.
func (c clocked) jenny(t *testing.T) (named []string) {
	t.Helper()
	ctx := t.Context()
	told := of("pi_told", chargeFailed(1, "insufficient_funds"))
	told.Customer, told.MethodID, told.Addresses = "cus_jenny", "pm_jenny_1", &Contact{Receipt: "jenny@example.com"}
	c.record(t, told)
	for _, id := range []string{"pi_silent", "pi_other"} {
		silent := of(id, chargeFailed(1, "insufficient_funds"))
		silent.Customer, silent.MethodID, silent.Fingerprint = "cus_jenny", "pm_jenny_2", "fp_jenny"
		c.record(t, silent)
	}
	require.NoError(t, c.recorder.Record(ctx, Delivery{Customer: &Customer{CustomerID: "cus_jenny", Source: "stripe", RecordCreated: 1, RecordEvent: "evt_1"}}))
	named = []string{"cus_jenny", "pm_jenny_1", "pm_jenny_2", "fp_jenny", "jenny@example.com"}
	for _, name := range named {
		require.NoError(t, c.recorder.Record(ctx, Delivery{Quarantine: &Quarantined{Source: "stripe", EventID: "evt_" + fmt.Sprintf("%x", name), Body: []byte(`{"x":"` + name + `"}`)}}))
	}
	require.NoError(t, c.store.InIngest(ctx, func(in *store.Ingest) error {
		return in.Save(ctx, store.Changes{Jobs: []store.Job{
			{Args: job.LookUpContact{PaymentID: "pi_silent", Source: "stripe", Customer: "cus_jenny"}, Queue: job.QueueLookUp, At: testNow},
			{Args: job.LookUpContact{PaymentID: "pi_told", Source: "stripe", Customer: "cus_jenny"}, Queue: job.QueueLookUp, At: testNow},
		}})
	}))
	return named
}

// Each statement that takes something away is in turn the last that is begun before the end.
func TestAnErasureThatWasCutShortAnywhereIsFinishedByRepeatingIt(t *testing.T) {
	t.Parallel()
	for name, who := range map[string]store.Erasure{"customer": {Customer: "cus_jenny"}, "mailbox": byMailbox("jenny@example.com")} {
		cuts := 0
		for cut := 1; ; cut++ {
			c := setupClocked(t)
			named := c.jenny(t)
			c.exec(t, `CREATE SEQUENCE steps`) // what it has counted is not rolled back
			c.exec(t, fmt.Sprintf(`CREATE FUNCTION count_step() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF nextval('steps') = %d THEN RAISE 'killed'; END IF; RETURN NULL; END $$`, cut))
			for _, on := range []string{"UPDATE ON facts", "UPDATE ON quarantine", "DELETE ON customers", "DELETE ON river_job", "UPDATE ON notifications"} {
				c.exec(t, `CREATE TRIGGER count_step AFTER `+on+` FOR EACH STATEMENT EXECUTE FUNCTION count_step()`)
			}
			_, err := c.store.Erase(t.Context(), who)
			if err == nil {
				break
			}
			require.ErrorContains(t, err, "killed")
			cuts++
			c.erase(t, who)
			require.Empty(t, c.names(t, named...), "by %s, cut at step %d", name, cut)
			require.Zero(t, c.count(t, `SELECT count(*) FROM quarantine WHERE body IS NOT NULL`), "by %s, cut at step %d", name, cut)
			require.Zero(t, c.count(t, `SELECT count(*) FROM facts WHERE contact IS NOT NULL`), "by %s, cut at step %d", name, cut)
			require.Zero(t, c.count(t, `SELECT count(*) FROM notifications WHERE status = 'held'`), "by %s, cut at step %d", name, cut)
		}
		require.Greater(t, cuts, 5)
	}
}

// While the first tombstones are laid, an event tells of one more customer at the mailbox; while the second are, of a
// payment of theirs.
func TestWhatComesWhileTombstonesAreLaidIsErasedToo(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	late := chargeFailed(1, "insufficient_funds")
	late.Customer = "cus_late"
	c.record(t, late)
	require.NoError(t, c.recorder.Record(t.Context(), Delivery{Customer: &Customer{
		CustomerID: "cus_late", Source: "stripe", RecordCreated: 1, RecordEvent: "evt_1", Email: "jenny@example.com",
	}}))
	guest := of("pi_guest", chargeFailed(1, "insufficient_funds"))
	guest.Customer, guest.Addresses = "", &Contact{Receipt: "jenny@example.com"}
	c.record(t, guest)
	for _, table := range []string{"customers", "facts", "payments", "attempts", "notifications"} {
		where := `WHERE payment_id = 'pi_1'`
		if table == "customers" {
			where = ""
		}
		c.exec(t, fmt.Sprintf(`CREATE TABLE late_%[1]s AS SELECT * FROM %[1]s %[2]s`, table, where))
		c.exec(t, fmt.Sprintf(`DELETE FROM %s %s`, table, where))
	}
	c.exec(t, `CREATE SEQUENCE buried`)
	c.exec(t, `CREATE FUNCTION arrive() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		CASE nextval('buried')
		WHEN 1 THEN INSERT INTO customers SELECT * FROM late_customers; DROP TABLE late_customers;
		WHEN 2 THEN INSERT INTO facts SELECT * FROM late_facts; INSERT INTO payments SELECT * FROM late_payments;
			INSERT INTO attempts SELECT * FROM late_attempts; INSERT INTO notifications SELECT * FROM late_notifications;
			DROP TABLE late_facts, late_payments, late_attempts, late_notifications;
		ELSE NULL; END CASE; RETURN NULL; END $$`)
	c.exec(t, `CREATE TRIGGER arrive BEFORE INSERT ON tombstones FOR EACH STATEMENT EXECUTE FUNCTION arrive()`)
	c.erase(t, byMailbox("jenny@example.com"))
	require.Equal(t, 1, c.count(t, `SELECT count(*) FROM facts WHERE payment_id = 'pi_1'`))
	require.Empty(t, c.names(t, "cus_late"))
}

// The charge's event tells the address, the intent's whose it is.
func TestTheCustomerOfAPaymentIsErasedByTheAddressOfAnyOfItsEvents(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	charge, intent := chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds")
	charge.Customer, intent.Customer = "", "cus_jenny"
	charge.Addresses = &Contact{Billing: "jenny@example.com"}
	other := of("pi_other", chargeFailed(1, "insufficient_funds"))
	other.Customer = "cus_jenny"
	c.record(t, charge, intent, other)
	require.NotEmpty(t, c.names(t, "cus_jenny"))
	c.erase(t, byMailbox("jenny@example.com"))
	require.Empty(t, c.names(t, "cus_jenny"))
}

// A Frame payment's events may name a customer, or the account that pays.
func TestAPaymentIsErasedUnderAllNamesThatItHas(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	charge, intent := chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds")
	charge.Customer, intent.Customer = "cus_jenny", "acc_of_jenny"
	intent.Created++
	c.record(t, charge, intent)
	require.NotEmpty(t, c.column(t, `SELECT id FROM notifications WHERE customer = 'acc_of_jenny'`))
	c.erase(t, store.Erasure{Customer: "cus_jenny"})
	require.Empty(t, c.names(t, "cus_jenny", "acc_of_jenny"))
}

func TestATextNamesNobodyOnceItIsErased(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	charge, intent := chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds")
	charge.Customer, charge.MethodID = "", ""
	charge.ErrorMessage = "Card pm_1Nq8Qx2eZvKYlo2C of cus_OeT7bG0x4kQ2Za (o'brien@example.com) was declined 2 times by the bank, see 2026-11-25."
	intent.Customer, intent.MethodID = "cus_OeT7bG0x4kQ2Za", "pm_1Nq8Qx2eZvKYlo2C"
	c.record(t, charge, intent)
	c.erase(t, store.Erasure{Customer: "cus_OeT7bG0x4kQ2Za"})
	names := []string{"cus_OeT7bG0x4kQ2Za", "pm_1Nq8Qx2eZvKYlo2C", "brien"}
	require.Empty(t, c.names(t, names...))
	before := c.state(t)
	require.Contains(t, before, "was declined 2 times by the bank, see 2026-11-25.")
	again := charge
	again.APIVersion = "2025-04-30.basil"
	c.record(t, again)
	require.Empty(t, c.names(t, names...))
	require.Equal(t, strings.Count(before, "was declined 2 times"), strings.Count(c.state(t), "was declined 2 times"))
}

func TestABodyInQuarantineIsErasedHoweverItSpellsTheAddress(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{"email":"o'brien@example.com"}`, `{"email":"O'Brien@Example.com"}`, `{"email":"o\u0027brien@example.com"}`,
		`{"email":"o'brien\u0040example.com"}`, `{"text":"Sent to 'o'brien@example.com'."}`, `{"text":"Sent to o'brien@example.com."}`,
		`{"text":"\u003co'brien@example.com\u003e"}`,
	} {
		c := setupClocked(t)
		for _, b := range []string{body, strings.Replace(body, "rien", "rian", 1)} {
			require.NoError(t, c.recorder.Record(context.Background(), Delivery{Quarantine: &Quarantined{Source: "stripe", EventID: b, Body: []byte(b)}}))
		}
		require.Equal(t, store.Erased{Quarantined: 1}, c.erase(t, byMailbox("o'brien@example.com")), body)
	}
}

func TestARepeatedEventDoesNotTakeUpAnErasedMailAgain(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	charge, intent := chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds")
	charge.Customer, intent.Customer = "cus_jenny", "cus_jenny"
	c.record(t, charge, intent)
	require.Equal(t, 1, c.count(t, `SELECT count(*) FROM notifications WHERE channel = 'email' AND status = 'held'`))
	c.erase(t, store.Erasure{Customer: "cus_jenny"})
	c.exec(t, `DELETE FROM river_job`)
	again := charge
	again.APIVersion = "2025-04-30.basil"
	c.record(t, again)
	require.Equal(t, []string{"canceled erased"}, c.column(t, `SELECT status || ' ' || reason FROM notifications WHERE channel = 'email'`))
	require.Zero(t, c.count(t, `SELECT count(*) FROM river_job`))
}

// The charge's event tells an address, only the intent's whose it is.
func TestANewPaymentOfSomebodyErasedIsAnonymousInWhateverOrderItsEventsCome(t *testing.T) {
	t.Parallel()
	states := make(map[string]string)
	for _, order := range []string{"charge first", "intent first", "at once"} {
		c := setupClocked(t)
		c.erase(t, store.Erasure{Customer: "cus_jenny"})
		charge, intent := chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds")
		charge.Customer, intent.Customer = "", "cus_jenny"
		charge.Addresses = &Contact{Receipt: "jenny@example.com"}
		switch order {
		case "charge first":
			c.record(t, charge)
			c.record(t, intent)
		case "intent first":
			c.record(t, intent)
			c.record(t, charge)
		default:
			require.NoError(t, c.recorder.Record(t.Context(), Delivery{Facts: []Fact{charge, intent}}))
		}
		k := charge.PaymentKey
		customer := c.column(t, `SELECT customer FROM payments`)
		require.Len(t, customer, 1)
		require.True(t, strings.HasPrefix(customer[0], "erased_"), order)
		to, err := c.store.Recipient(t.Context(), k, customer[0])
		require.NoError(t, err)
		require.Empty(t, to.Emails, order)
		require.Zero(t, c.count(t, `SELECT count(*) FROM facts WHERE contact IS NOT NULL`), order)
		require.Empty(t, c.names(t, "cus_jenny", "jenny@example.com", charge.MethodID), order)
		states[strings.Join(c.column(t, `SELECT method_id || ' ' || fingerprint || ' ' || customer FROM attempts`), ",")] = order
	}
	require.Len(t, states, 3, "one per store, whose keys differ, and each of one attempt: %v", states)
	for state := range states {
		require.NotContains(t, state, ",")
		require.NotContains(t, state, "pm_")
	}
}

// One of the invoice's events tells an address, only the other whose it is.
func TestAnInvoiceOfSomebodyErasedIsAnonymousInWhateverOrderItsEventsCome(t *testing.T) {
	t.Parallel()
	for _, order := range []string{"address first", "name first", "at once"} {
		c := setupClocked(t)
		c.erase(t, store.Erasure{Customer: "cus_jenny"})
		address, name := fact("evt_1", "invoice.payment_failed", "invoice"), fact("evt_2", "invoice.voided", "invoice")
		for _, f := range []*Fact{&address, &name} {
			f.PaymentID, f.Invoice, f.PaymentIntent, f.MethodID = "in_1", "in_1", "", ""
		}
		address.Customer, name.Customer = "", "cus_jenny"
		address.Addresses = &Contact{Customer: "jenny@example.com"}
		switch order {
		case "address first":
			c.record(t, address)
			c.record(t, name)
		case "name first":
			c.record(t, name)
			c.record(t, address)
		default:
			require.NoError(t, c.recorder.Record(t.Context(), Delivery{Facts: []Fact{address, name}}))
		}
		require.Equal(t, 2, c.count(t, `SELECT count(*) FROM facts`), order)
		require.Zero(t, c.count(t, `SELECT count(*) FROM facts WHERE contact IS NOT NULL`), order)
		require.Empty(t, c.names(t, "cus_jenny"), order)
	}
}

func TestAnEventThatQuotedSomebodyErasedBeforeItsPaymentWasKnownIsErased(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	c.erase(t, store.Erasure{Customer: "cus_OeT7bG0x4kQ2Za"})
	charge, intent := chargeFailed(1, "insufficient_funds"), intentFailed(1, "insufficient_funds")
	charge.Customer, charge.MethodID, charge.Fingerprint, intent.Customer = "", "", "", "cus_OeT7bG0x4kQ2Za"
	charge.ErrorMessage = "No mandate for jenny@example.com (cus_OeT7bG0x4kQ2Za)."
	c.record(t, charge)
	require.NotEmpty(t, c.names(t, "cus_OeT7bG0x4kQ2Za", "jenny@example.com"))
	c.record(t, intent)
	require.Empty(t, c.names(t, "cus_OeT7bG0x4kQ2Za", "jenny@example.com"))
}

func TestSomebodyErasedIsNotLookedUp(t *testing.T) {
	t.Parallel()
	c := setupClocked(t)
	c.recorder.policy.LooksUp = true
	c.erase(t, store.Erasure{Customer: "cus_1"})
	c.record(t, chargeFailed(1, "insufficient_funds"))
	require.Equal(t, 1, c.count(t, `SELECT count(*) FROM notifications WHERE channel = 'email' AND status = 'held'`))
	require.Zero(t, c.count(t, `SELECT count(*) FROM river_job WHERE kind = 'look_up_contact'`))
}
