-- Ends that a store which is no more was to be told: whatever waited there has ended, or has been moved. Index: outbox_due.
DELETE FROM headrace.outbox AS o WHERE o.store = $1::text AND o.kind = 'end'
