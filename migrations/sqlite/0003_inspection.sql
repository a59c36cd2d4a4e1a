-- Datasets: texts that activations are read over. Templates: named choices of hook points, layers and settings.
-- `body` is the API's message, encoded (proto/millm/catalog/v1); the other columns are what it is searched and sorted by,
-- and count before it. Times are microseconds since 1970.
CREATE TABLE datasets (
    -- AUTOINCREMENT: an id that was deleted is never given again.
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    handle      TEXT    NOT NULL UNIQUE CHECK (length(handle) BETWEEN 1 AND 255),
    -- Its files are being fetched or read.
    pending     BOOLEAN NOT NULL,
    body        BLOB    NOT NULL,
    version     INTEGER NOT NULL,
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL
);

CREATE TABLE templates (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    handle      TEXT    NOT NULL UNIQUE CHECK (length(handle) BETWEEN 1 AND 255),
    -- Listed before the others.
    favorite    BOOLEAN NOT NULL,
    body        BLOB    NOT NULL,
    version     INTEGER NOT NULL,
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL
);
CREATE INDEX templates_order ON templates (favorite DESC, id DESC);
