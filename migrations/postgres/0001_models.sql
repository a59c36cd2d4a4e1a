-- Models: what exists. Words are those of the contracts (proto/millm/catalog/v1), without their prefixes.
-- Text is never null: empty means unset, as on the wire. Times are microseconds since 1970.
CREATE TABLE models (
    id                     BIGINT  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    handle                 TEXT    NOT NULL UNIQUE CHECK (length(handle) BETWEEN 1 AND 255),
    source                 TEXT    NOT NULL CHECK (source IN ('HUGGINGFACE', 'LOCAL')),
    repo_id                TEXT    NOT NULL,
    revision               TEXT    NOT NULL,
    commit_id              TEXT    NOT NULL,
    file                   TEXT    NOT NULL,
    local_path             TEXT    NOT NULL,
    storage_path           TEXT    NOT NULL,
    requested_quantization TEXT    NOT NULL CHECK (requested_quantization IN ('Q2', 'Q4', 'Q8', 'FP16', 'NATIVE')),
    actual_quantization    TEXT    NOT NULL CHECK (actual_quantization IN ('UNSPECIFIED', 'Q2', 'Q4', 'Q8', 'FP16', 'NATIVE')),
    quantization_reason    TEXT    NOT NULL,
    architecture           JSONB   NOT NULL,
    parameter_count        BIGINT  NOT NULL CHECK (parameter_count >= 0),
    disk_size_bytes        BIGINT  NOT NULL CHECK (disk_size_bytes >= 0),
    memory_estimate_bytes  BIGINT  NOT NULL CHECK (memory_estimate_bytes >= 0),
    config_json            TEXT    NOT NULL,
    files                  JSONB   NOT NULL,
    trust_remote_code      BOOLEAN NOT NULL,
    has_chat_template      BOOLEAN NOT NULL,
    state                  TEXT    NOT NULL CHECK (state IN ('PENDING', 'READY', 'ERROR', 'DELETING')),
    -- google.rpc.Status, encoded; empty when there is none.
    error                  BYTEA   NOT NULL,
    -- Lowercase handle, repository, paths and architecture, one per line: what a text query looks into.
    search_text            TEXT    NOT NULL,
    version                BIGINT  NOT NULL,
    create_time            BIGINT  NOT NULL,
    update_time            BIGINT  NOT NULL
);

-- The hub does not tell upper from lower case.
CREATE UNIQUE INDEX models_hub_key ON models (lower(repo_id), requested_quantization, file) WHERE source = 'HUGGINGFACE';
CREATE UNIQUE INDEX models_local_key ON models (local_path) WHERE source = 'LOCAL';
CREATE INDEX models_state ON models (state, id);

-- Tells every catalogue on this database which model changed.
CREATE FUNCTION models_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('millm_models', TG_TABLE_SCHEMA || ':' || COALESCE(NEW.id, OLD.id));
    RETURN NULL;
END
$$;
CREATE TRIGGER models_notify AFTER INSERT OR UPDATE OR DELETE ON models FOR EACH ROW EXECUTE FUNCTION models_notify();
