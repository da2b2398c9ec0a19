-- +goose Up

-- The job queue comes with indexes of what jobs hold, for those who search jobs by it. Nothing here does, and each
-- failure would pay for both, some of them for a whole list of pending entries.
DROP INDEX river_job_args_index, river_job_metadata_index;

-- +goose Down

CREATE INDEX river_job_args_index ON river_job USING gin (args);
CREATE INDEX river_job_metadata_index ON river_job USING gin (metadata);
