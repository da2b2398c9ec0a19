package store

import "time"

// FailuresSQL is the statement of FailurePage. It and those below are the statements whose plans a test looks at.
func FailuresSQL(f FailureFilter, after time.Time) (string, []any) { return failuresSQL(f, after) }

// InboxSQL is the statement of InboxPage.
func InboxSQL(f InboxFilter, after time.Time) (string, []any) { return inboxSQL(f, after) }

// PaymentSQL is the statement by which FindPayment finds its payment.
func PaymentSQL(paymentID string) (string, []any) { return paymentSQL(paymentID, "", Within{}) }

// NotificationsSQL is the statement by which failures get their notifications; ByIndexes are the settings of all connections.
var (
	NotificationsSQL = notificationsSQL
	LanguagesSQL     = languagesSQL
	IdleOwnersSQL    = idleOwnersSQL
	DueJobsSQL       = dueJobsSQL
	DueMailsSQL      = dueMailsSQL
	BudgetSQL        = budgetSQL
	LaterJobsSQL     = laterJobsSQL
	CustomersSQL     = customersSQL
	ByIndexes        = byIndexes
)

// FactArrays are the columns of facts as a group's insert has them: payment ids, sources, accounts, …
func FactArrays(facts []Fact) ([]any, error) { return factTable.arrays(pointers(facts)) }
