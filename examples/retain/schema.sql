-- Where documents and their chunks are kept. Safe to run again.
SELECT pg_advisory_xact_lock(hashtext('retain schema'));
CREATE EXTENSION IF NOT EXISTS vector;
CREATE SCHEMA IF NOT EXISTS retain;
CREATE SEQUENCE IF NOT EXISTS retain.submission_order;

-- A submission that is repeated under its key keeps its place in the order.
CREATE TABLE IF NOT EXISTS retain.submissions (
    key text PRIMARY KEY,
    sequence bigint NOT NULL DEFAULT nextval('retain.submission_order')
);

CREATE TABLE IF NOT EXISTS retain.documents (
    id text PRIMARY KEY,
    sequence bigint NOT NULL,  -- of the submission that it is of: an earlier one does nothing any more
    hash bytea,
    tags text[] NOT NULL DEFAULT '{}',
    report jsonb               -- what that submission did: asked again, it says the same
);

CREATE TABLE IF NOT EXISTS retain.chunks (
    document text NOT NULL REFERENCES retain.documents (id) ON DELETE CASCADE,
    hash bytea NOT NULL,
    nth integer NOT NULL,      -- tells apart chunks of a document that say the same
    position integer NOT NULL,
    body text NOT NULL,
    tags text[] NOT NULL,
    embedded_by bigint NOT NULL, -- the submission that made its embedding
    embedding vector(256) NOT NULL,
    PRIMARY KEY (document, hash, nth)
);
