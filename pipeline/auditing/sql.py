"""SQL over the manifest: DuckDB views `samples`, `shards` and `units`, and nothing else within reach."""

from typing import Any

import duckdb

from pipeline.auditing.folder import TABLES, OutputFolder

_READS = {"SELECT", "EXPLAIN"}


class QueryError(Exception):
    """The query is not one SELECT, or DuckDB refused it."""


def query(output: OutputFolder, statement: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of one SELECT (or WITH, DESCRIBE, SUMMARIZE, EXPLAIN) over the manifest's tables.

    DuckDB sees the tables through Arrow and has no access to files, the network, extensions or Python variables, so a
    query can neither read nor write anything beyond the manifest. Raises QueryError.
    """
    with duckdb.connect(":memory:", config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}) as connection:
        for name in TABLES:
            connection.register(name, output.dataset(name))  # type: ignore[arg-type]
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            parsed = connection.extract_statements(statement)
            if len(parsed) != 1 or parsed[0].type.name not in _READS:
                kinds = ", ".join(each.type.name for each in parsed) or "nothing"
                raise QueryError(f"give exactly one SELECT, got {kinds}; the manifest is read-only")
            result = connection.execute(parsed[0])
            return [column[0] for column in result.description or []], result.fetchall()
        except duckdb.Error as error:
            raise QueryError(f'{error}\ntables: {", ".join(TABLES)} (try "DESCRIBE samples")') from None
