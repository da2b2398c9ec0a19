-- +goose Up

-- Ids and codes are compared by their bytes. By the order of a language, which many databases have by default, Postgres takes
-- half as long again for a failure, and an index made with one version of the system's library may be wrong for another.
-- +goose StatementBegin
DO $$
DECLARE
    change text;
BEGIN
    FOR change IN
        SELECT format('ALTER TABLE %I %s', table_name, string_agg(format('ALTER COLUMN %I TYPE text COLLATE "C"', column_name), ', '))
        FROM information_schema.columns
        WHERE table_schema = current_schema() AND data_type = 'text' AND table_name IN ('attempts', 'checkout_streams', 'contacts', 'customers',
            'facts', 'invoices', 'keys', 'links', 'notifications', 'payments', 'quarantine', 'suppressions', 'tombstones')
        GROUP BY table_name ORDER BY table_name
    LOOP
        EXECUTE change;
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down

-- +goose StatementBegin
DO $$
DECLARE
    change text;
BEGIN
    FOR change IN
        SELECT format('ALTER TABLE %I %s', table_name, string_agg(format('ALTER COLUMN %I TYPE text COLLATE "default"', column_name), ', '))
        FROM information_schema.columns
        WHERE table_schema = current_schema() AND data_type = 'text' AND table_name IN ('attempts', 'checkout_streams', 'contacts', 'customers',
            'facts', 'invoices', 'keys', 'links', 'notifications', 'payments', 'quarantine', 'suppressions', 'tombstones')
        GROUP BY table_name ORDER BY table_name
    LOOP
        EXECUTE change;
    END LOOP;
END $$;
-- +goose StatementEnd
