-- Datasets: texts that activations are read over. Templates: named choices of hook points, layers and settings.
-- `body` is the API's message, encoded (proto/millm/catalog/v1); the other columns are what it is searched and sorted by,
-- and count before it. Times are microseconds since 1970.
CREATE TABLE datasets (
    id          BIGINT  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    handle      TEXT    NOT NULL UNIQUE CHECK (length(handle) BETWEEN 1 AND 255),
    -- Its files are being fetched or read.
    pending     BOOLEAN NOT NULL,
    body        BYTEA   NOT NULL,
    version     BIGINT  NOT NULL,
    create_time BIGINT  NOT NULL,
    update_time BIGINT  NOT NULL
);

CREATE TABLE templates (
    id          BIGINT  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    handle      TEXT    NOT NULL UNIQUE CHECK (length(handle) BETWEEN 1 AND 255),
    -- Listed before the others.
    favorite    BOOLEAN NOT NULL,
    body        BYTEA   NOT NULL,
    version     BIGINT  NOT NULL,
    create_time BIGINT  NOT NULL,
    update_time BIGINT  NOT NULL
);
CREATE INDEX templates_order ON templates (favorite DESC, id DESC);
