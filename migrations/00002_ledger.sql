-- +goose Up

-- The retry ledger counts failed attempts per card: by fingerprint, else by payment method. The expression, and the
-- conditions, stand in store's statement as they stand here. Not CONCURRENTLY: it would wait for the snapshot of another
-- replica that waits for the migration lock, for ever.
CREATE INDEX attempts_card ON attempts (key_second(COALESCE(NULLIF(fingerprint, ''), method_id), occurred_at) DESC)
    WHERE result = 'failed' AND COALESCE(NULLIF(fingerprint, ''), method_id) <> '';

-- Some networks' codes bar a card however old they are, so no window bounds the search for them.
CREATE INDEX attempts_card_code ON attempts (COALESCE(NULLIF(fingerprint, ''), method_id), network_decline_code)
    WHERE result = 'failed' AND network_decline_code <> '';

-- +goose Down

DROP INDEX attempts_card_code;
DROP INDEX attempts_card;
