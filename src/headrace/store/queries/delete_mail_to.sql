-- Ends that stores were to be told which are no more ($1): they owned nothing when they were taken out of use. Index: outbox_due.
DELETE FROM headrace.outbox AS o WHERE o.store = ANY($1::text[]) AND o.kind = 'end'
