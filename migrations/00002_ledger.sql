-- +goose Up

-- The retry ledger counts failed attempts per card: by fingerprint, else by payment method. The expression, and the
-- conditions, stand in store's statement as they stand here. Not CONCURRENTLY: it would wait for the snapshot of another
-- replica that waits for the migration lock, for ever.
CREATE INDEX attempts_card ON attempts (key_second(COALESCE(NULLIF(fingerprint, ''), method_id), occurred_at) DESC)
    WHERE result = 'failed' AND COALESCE(NULLIF(fingerprint, ''), method_id) <> '';

-- Some networks' codes bar a card however old they are, so no window bounds the search for them. Most failures have another
-- code, and no place here. Whoever adds one to decline's tables adds a step that makes this index anew with it.
CREATE INDEX attempts_card_code ON attempts (COALESCE(NULLIF(fingerprint, ''), method_id), network_decline_code)
    WHERE result = 'failed' AND network_decline_code IN (
        '04', '07', '101', '109', '110', '115', '12', '122', '13', '14', '15', '180', '181', '19', '200', '23', '30',
        '41', '43', '46', '54', '56', '57', '58', '63', '64', '76', '77', '82', '83', 'AB', 'AC', 'FM', 'P5', 'R0',
        'R1', 'R3');

-- +goose Down

DROP INDEX attempts_card_code;
DROP INDEX attempts_card;
