-- Which catalogue this is: files carry it, so that catalogues that share a models folder can tell theirs apart.
CREATE TABLE identity (id TEXT NOT NULL CHECK (length(id) = 16));
INSERT INTO identity (id) VALUES (substr(replace(gen_random_uuid()::text, '-', ''), 1, 16));
