"""The rules, one module a concern. Knows no HTTP and no SQL text; answers with the values in ``outcomes``."""
