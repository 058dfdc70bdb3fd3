-- Limits that hold over all stores (decision 0014): what the claims of one store tell those of the others.

-- Whose turn it is to claim under a limit: a hint between stores and no part of the limit, so it may be lost with a crash.
CREATE UNLOGGED TABLE headrace.limit_turns (
    environment_id integer NOT NULL REFERENCES headrace.environments (id),
    queue text NOT NULL,            -- '' is the environment
    tried_at timestamptz,           -- when a claim of this store last looked what was left
    took_at timestamptz,            -- when one last took something
    wants_until timestamptz,        -- until when the others believe that it would take more
    PRIMARY KEY (environment_id, queue)
) WITH (fillfactor = 50);
COMMENT ON TABLE headrace.limit_turns IS 'Which limits this store''s workers would claim more under, and when they last did. Of use with several stores only.';

-- serves claims of other stores: which keys have used up something of their rate
CREATE INDEX queue_rates_used ON headrace.queue_rates (queue_id, used_until);
