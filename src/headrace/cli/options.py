"""Options that several commands have. Each has a twin in the environment: ``--api-url`` is ``HEADRACE_API_URL``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

DatabaseUrl = Annotated[str | None, Parameter(help="PostgreSQL to use; without it DATABASE_URL")]
ApiUrl = Annotated[str | None, Parameter(help="Where the server is (default http://127.0.0.1:8030)")]
ApiKey = Annotated[str | None, Parameter(help="The key to send")]
Json = Annotated[bool, Parameter(negative="", help="Print one JSON value on stdout, for programs")]
Tasks = Annotated[str, Parameter(help="A Python file such as tasks.py, or a module such as shop.tasks")]
Port = Annotated[int | None, Parameter(help="Port of the API; 0 takes a free one (default 8030)")]
Host = Annotated[str | None, Parameter(help="Address to bind (default 127.0.0.1)")]
Concurrency = Annotated[int | None, Parameter(help="Runs that the worker executes at once (default 100)")]
