-- +goose Up

-- Root secrets of keyed hashes, wrapped by ENCRYPTION_KEY; made once, they survive the rotation of that key.
CREATE TABLE keys (
    name    text PRIMARY KEY,
    wrapped bytea NOT NULL
);

-- Numbers of running processes; each process holds a session advisory lock on its own (claims of a number whose lock is
-- free belong to the dead).
CREATE SEQUENCE owner_numbers;

-- What the rows of one customer or card are looked for by, the newest first: the half year, 31 bits of a hash, the second. So
-- rows that are written together lie in the present half year's part of an index, however many there are of earlier ones;
-- with the text first, each would change a page of its own somewhere in all of it. hashtext is what Postgres keeps hash
-- indexes by, so it stays the same. Rows of one hash are told apart by the text, those of one second by who reads them.
CREATE FUNCTION half_year_key(half_year bigint, key text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (half_year << 55) + ((hashtext(key)::bigint & 2147483647) << 24);
CREATE FUNCTION key_second(key text, at timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN half_year_key(least(greatest(date_part('epoch', at AT TIME ZONE 'UTC'), 0), 4294967295)::bigint >> 24, key)
        + (least(greatest(date_part('epoch', at AT TIME ZONE 'UTC'), 0), 4294967295)::bigint & 16777215);

-- One row per event and rendering: the same event id can reach us in two API versions, and both count (templates and mock
-- servers also repeat one id over event types). An invoice's events are filed under the invoice id. Rows are never
-- changed, save that people are erased. detail is the rest of what the event says: only the derivation reads it, whole.
CREATE TABLE facts (
    payment_id  text    NOT NULL,
    source      text    NOT NULL,
    account     text    NOT NULL,
    livemode    boolean NOT NULL,
    event_id    text    NOT NULL,
    api_version text    NOT NULL,

    event_type  text        NOT NULL,
    created     bigint      NOT NULL, -- Unix seconds, the event's
    received_at timestamptz NOT NULL, -- first receipt, frozen
    contact     bytea,                -- sealed addresses; null when there is none, or erased
    detail      text        NOT NULL, -- store.Fact as JSON, by the short names of its tags; what is empty is left out
    PRIMARY KEY (payment_id, source, account, livemode, event_id, event_type, api_version)
);

-- A payment's events update its rows once or twice within minutes: room in the page keeps those updates off the indexes.
CREATE TABLE payments (
    payment_id text    NOT NULL,
    source     text    NOT NULL,
    account    text    NOT NULL,
    livemode   boolean NOT NULL,

    status          text   NOT NULL, -- failing, pending, recovered, canceled; '' of an object that is no payment
    payment_intent  text   NOT NULL,
    customer        text   NOT NULL,
    invoice         text   NOT NULL,
    order_reference text   NOT NULL,
    amount          bigint NOT NULL,
    currency        text   NOT NULL,
    client_secret_hash bytea,
    failed_received_at timestamptz, -- commit time of the first failure event
    failed_created     bigint NOT NULL, -- created of the earliest failure; 0 none
    succeeded_created  bigint NOT NULL, -- created of the success; 0 none
    created_at timestamptz NOT NULL,
    PRIMARY KEY (payment_id, source, account, livemode)
) WITH (fillfactor = 80);
-- A later success of the same customer supersedes what is not sent yet.
CREATE INDEX payments_customer_success ON payments (customer, succeeded_created)
    WHERE succeeded_created > 0 AND customer <> '';
CREATE INDEX payments_invoice ON payments (invoice) WHERE invoice <> '';
CREATE INDEX payments_order ON payments (order_reference) WHERE order_reference <> '' AND succeeded_created > 0;

CREATE TABLE invoices (
    invoice_id text    NOT NULL,
    source     text    NOT NULL,
    account    text    NOT NULL,
    livemode   boolean NOT NULL,
    status         text   NOT NULL, -- open, paid, void, uncollectible, or '' unknown
    billing_reason text   NOT NULL,
    settled_created bigint NOT NULL, -- created of the event that settled it; 0 none
    PRIMARY KEY (invoice_id, source, account, livemode)
);

-- One row per attempt, failed or succeeded, derived from the facts. Columns are what rows are looked for by; detail is
-- the rest.
CREATE TABLE attempts (
    id         text PRIMARY KEY,
    payment_id text    NOT NULL,
    source     text    NOT NULL,
    account    text    NOT NULL,
    livemode   boolean NOT NULL,
    result      text   NOT NULL, -- failed, succeeded
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,

    charge      text NOT NULL,
    customer    text NOT NULL,
    category    text NOT NULL,
    method_id   text NOT NULL,
    brand       text NOT NULL,
    network     text NOT NULL,
    fingerprint text NOT NULL,
    network_decline_code text NOT NULL,
    payment_status text NOT NULL, -- of payments, so that a list of failures need not look there

    detail text NOT NULL -- store.Attempt as JSON, by the short names of its tags; what is empty is left out
) WITH (fillfactor = 80);
CREATE INDEX attempts_payment ON attempts (payment_id); -- which hardly ever is in two accounts
-- Ascending, though it is read from its end: what grows at its end leaves full pages behind, and finds its place at once.
CREATE INDEX attempts_newest ON attempts (occurred_at, id) WHERE result = 'failed';
CREATE INDEX attempts_customer ON attempts (key_second(customer, occurred_at) DESC) WHERE result = 'failed' AND customer <> '';
CREATE INDEX attempts_account ON attempts (account, occurred_at DESC, id DESC) WHERE result = 'failed' AND account <> '';
CREATE INDEX attempts_charge ON attempts (charge) WHERE charge <> '';

CREATE TABLE notifications (
    id         text PRIMARY KEY,
    payment_id text    NOT NULL,
    source     text    NOT NULL,
    account    text    NOT NULL,
    livemode   boolean NOT NULL,

    failure_id text   NOT NULL,
    channel    text   NOT NULL, -- checkout, email, inbox
    template   text   NOT NULL, -- first, reminder_1, ..., attempt
    status     text   NOT NULL, -- held, sent, delivered, suppressed, canceled, failed, unknown
    reason     text   NOT NULL,
    due_at     timestamptz NOT NULL,
    next_try_at timestamptz,    -- not before this: a server's "not now", or a limit; due_at is never moved by it
    sent_at    timestamptz,
    owner      bigint NOT NULL DEFAULT 0, -- process that has claimed it; 0 none
    tries      bigint NOT NULL DEFAULT 0, -- of which a mail server was asked
    undecided  bigint NOT NULL DEFAULT 0, -- of those, by which the mail may have arrived
    message_id text   NOT NULL, -- fixed at insert
    customer   text   NOT NULL,
    locale     text   NOT NULL,
    shown_code text   NOT NULL, -- the customer-safe code that was shown
    mailbox    bytea,           -- keyed hash of the normalised mailbox that it went to
    new_mailbox boolean NOT NULL DEFAULT false, -- that mailbox was unknown before the hour
    read_at    timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 90);
CREATE INDEX notifications_payment ON notifications (payment_id);
CREATE INDEX notifications_held ON notifications (due_at) WHERE status = 'held';
CREATE INDEX notifications_storm ON notifications (due_at) WHERE status = 'held' AND reason = 'mail_storm';
CREATE INDEX notifications_owner ON notifications (owner) WHERE owner <> 0;
CREATE INDEX notifications_inbox ON notifications (key_second(customer, created_at) DESC) WHERE channel = 'inbox' AND customer <> '';
CREATE INDEX notifications_mailbox ON notifications (mailbox, sent_at) WHERE mailbox IS NOT NULL;
CREATE INDEX notifications_undecided ON notifications (due_at) WHERE mailbox IS NOT NULL AND sent_at IS NULL AND owner = 0 AND status IN ('held', 'unknown', 'failed');
CREATE INDEX notifications_sent ON notifications (sent_at) WHERE sent_at IS NOT NULL AND channel = 'email';

-- What the provider's customer events or API say of a customer: the highest (record_created, record_event) wins.
CREATE TABLE customers (
    customer_id text    NOT NULL,
    source      text    NOT NULL,
    account     text    NOT NULL,
    livemode    boolean NOT NULL,
    record_created bigint  NOT NULL,
    record_event   text    NOT NULL,
    deleted        boolean NOT NULL,
    contact        bytea, -- sealed
    locale         text    NOT NULL,
    known_since    bigint  NOT NULL, -- the earliest moment that any record names; Unix seconds
    PRIMARY KEY (customer_id, source, account, livemode)
);

-- What the merchant says of a customer, by PUT /v1/customers/{customer}/contact.
CREATE TABLE contacts (
    customer_id text    NOT NULL,
    source      text    NOT NULL,
    account     text    NOT NULL,
    livemode    boolean NOT NULL,
    contact     bytea,
    locale      text NOT NULL,
    time_zone   text NOT NULL,
    updated_at  timestamptz NOT NULL,
    PRIMARY KEY (customer_id, source, account, livemode)
);

-- Open, verified checkout streams. A row whose heartbeat is old belongs to a replica that is gone.
CREATE TABLE checkout_streams (
    id         text PRIMARY KEY,
    payment_id text    NOT NULL,
    source     text    NOT NULL,
    account    text    NOT NULL,
    livemode   boolean NOT NULL,
    heartbeat_at timestamptz NOT NULL
);
CREATE INDEX checkout_streams_payment ON checkout_streams (payment_id);

-- Signed events that cannot be used as they are; the body is sealed.
CREATE TABLE quarantine (
    id          text PRIMARY KEY,
    source      text NOT NULL,
    event_id    text NOT NULL,
    event_type  text NOT NULL,
    reason      text NOT NULL,
    body        bytea,
    received_at timestamptz NOT NULL
);
CREATE INDEX quarantine_received ON quarantine (received_at);

-- Links in mails: only a hash of the token is kept.
CREATE TABLE links (
    token_hash bytea PRIMARY KEY,
    notification_id text NOT NULL,
    expires_at timestamptz NOT NULL
);

-- Mailboxes that get no mail: unsubscribed, bounced.
CREATE TABLE suppressions (
    mailbox    bytea PRIMARY KEY,
    reason     text NOT NULL,
    created_at timestamptz NOT NULL
);

-- Ids and codes are compared by their bytes. By the order of a language, which many databases have by default, Postgres takes
-- half as long again for a failure, and an index made with one version of the system's library may be wrong for another.
-- A later step that adds text says so itself: on a table with rows this would be no step that replicas can run through.
-- +goose StatementBegin
DO $$
DECLARE
    change text;
BEGIN
    FOR change IN
        SELECT format('ALTER TABLE %I %s', table_name, string_agg(format('ALTER COLUMN %I TYPE text COLLATE "C"', column_name), ', '))
        FROM information_schema.columns
        WHERE table_schema = current_schema() AND data_type = 'text' AND table_name IN ('attempts', 'checkout_streams', 'contacts',
            'customers', 'facts', 'invoices', 'keys', 'links', 'notifications', 'payments', 'quarantine', 'suppressions')
        GROUP BY table_name
    LOOP
        EXECUTE change;
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP TABLE suppressions, links, quarantine, checkout_streams, contacts, customers, notifications, attempts, invoices, payments, facts, keys;
DROP FUNCTION key_second, half_year_key;
DROP SEQUENCE owner_numbers;
