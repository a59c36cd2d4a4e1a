-- Models: what exists. Words are those of the contracts (proto/millm/catalog/v1), without their prefixes.
-- Text is never null: empty means unset, as on the wire. Times are microseconds since 1970.
CREATE TABLE models (
    -- AUTOINCREMENT: an id that was deleted is never given again.
    id                     INTEGER PRIMARY KEY AUTOINCREMENT,
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
    architecture           TEXT    NOT NULL CHECK (json_valid(architecture)),
    parameter_count        INTEGER NOT NULL CHECK (parameter_count >= 0),
    disk_size_bytes        INTEGER NOT NULL CHECK (disk_size_bytes >= 0),
    memory_estimate_bytes  INTEGER NOT NULL CHECK (memory_estimate_bytes >= 0),
    config_json            TEXT    NOT NULL,
    files                  TEXT    NOT NULL CHECK (json_valid(files)),
    trust_remote_code      BOOLEAN NOT NULL,
    has_chat_template      BOOLEAN NOT NULL,
    state                  TEXT    NOT NULL CHECK (state IN ('PENDING', 'READY', 'ERROR', 'DELETING')),
    -- google.rpc.Status, encoded; empty when there is none.
    error                  BLOB    NOT NULL,
    -- Lowercase handle, repository, paths and architecture, one per line: what a text query looks into.
    search_text            TEXT    NOT NULL,
    version                INTEGER NOT NULL,
    create_time            INTEGER NOT NULL,
    update_time            INTEGER NOT NULL
);

-- The hub does not tell upper from lower case.
CREATE UNIQUE INDEX models_hub_key ON models (lower(repo_id), requested_quantization, file) WHERE source = 'HUGGINGFACE';
CREATE UNIQUE INDEX models_local_key ON models (local_path) WHERE source = 'LOCAL';
CREATE INDEX models_state ON models (state, id);
