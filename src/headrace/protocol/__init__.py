"""The HTTP contract as typed structs, one file a noun, and the codec of the NDJSON item stream. Pure: no I/O."""
