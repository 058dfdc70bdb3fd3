-- Whoever changes the list of stores does so alone.
LOCK TABLE headrace.stores IN SHARE ROW EXCLUSIVE MODE
