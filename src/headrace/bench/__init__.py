"""``headrace bench``: what this machine's PostgreSQL can do at most, and what headrace does on it, in one run."""
