"""Documents in, searchable chunks out: a pipeline on headrace, PostgreSQL with pgvector, and a small local model."""
