"""PostgreSQL: connections, migrations and statements. Nothing above this floor writes SQL."""
