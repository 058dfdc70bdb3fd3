-- Nobody writes what a store owns until the end of the transaction; whoever does already is waited for.
LOCK TABLE headrace.runs, headrace.batches, headrace.tokens IN SHARE ROW EXCLUSIVE MODE
