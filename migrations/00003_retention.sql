-- +goose Up

-- Retention walks payments in the order in which they became known. They are written in that order, so the index only
-- grows at its right end; a BRIN index would cost as little, but tell nothing once the room of dropped rows is used again.
CREATE INDEX payments_created ON payments (created_at);

-- When an invoice was first heard of: it goes after its payments.
ALTER TABLE invoices ADD COLUMN created_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX invoices_created ON invoices (created_at);

-- Addresses that are still to be erased.
CREATE INDEX facts_contact ON facts (received_at) WHERE contact IS NOT NULL;

-- A mail's links go with it.
CREATE INDEX links_notification ON links (notification_id);

-- Keyed hashes of what is gone and must not come back: erased customers and payments, whose further events stay
-- anonymous, and the events of Frame whose failure was dropped, since its signature holds no time and an old body could
-- be sent again for ever. Never dropped.
CREATE TABLE tombstones (
    hash bytea PRIMARY KEY
);

-- +goose Down

DROP TABLE tombstones;
DROP INDEX links_notification, facts_contact, invoices_created, payments_created;
ALTER TABLE invoices DROP COLUMN created_at;
