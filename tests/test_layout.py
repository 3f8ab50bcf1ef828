"""The package's shape: imports run one way, and no module grows too large to be read."""

from __future__ import annotations

import ast
from pathlib import Path

import wsgi_tracker

PACKAGE = Path(wsgi_tracker.__file__).parent
# From what knows nothing of the rest to what assembles it; a module imports what stands before it.
ORDER = """
    errors period selection options process addresses exclusions visitors endpoints visit agents latency reports
    integrations integrations.django integrations.falcon integrations.pyramid
    storage.address storage storage.lines storage.unpacked storage.sqlite.faults storage.sqlite.pool storage.sqlite.schema storage.sqlite.settings storage.sqlite.migrations
    storage.sqlite.strings storage.sqlite.packed storage.sqlite.intake storage.sqlite.classes storage.sqlite.arrivals storage.sqlite.calendar storage.sqlite.conditions storage.sqlite.changes storage.sqlite.outcomes storage.sqlite.counters storage.sqlite.counting storage.sqlite.uncount storage.sqlite.purge storage.sqlite.facts storage.sqlite.outcome_reports storage.sqlite.raw storage.sqlite.breakdown storage.sqlite.journeys storage.sqlite.window storage.sqlite.counted storage.sqlite.check storage.sqlite.backup storage.sqlite.database storage.sqlite.snapshot storage.sqlite
    storage.clickhouse.waiting storage.clickhouse.literals storage.clickhouse.client storage.clickhouse.schema storage.clickhouse.replicas storage.clickhouse.settings storage.clickhouse.conditions storage.clickhouse.zones storage.clickhouse.questions storage.clickhouse.shards storage.clickhouse.deletion storage.clickhouse.ledger storage.clickhouse.delivery storage.clickhouse.agents storage.clickhouse.lists storage.clickhouse.snapshot storage.clickhouse.upkeep storage.clickhouse
    logs.entry logs.escapes logs.times logs.pattern logs.fields logs.apache logs.nginx logs.gunicorn logs.caddy logs.detect logs
    secret identity agreement segments mounts rescue batches rejected hostlock own_segment spool recorder retention ingest unread forget proxies ingest_thread health observation parameters spans paging query schemas asked answers insights export fresh auth responses metrics openapi dashboard api backend middleware
    __init__ logfile logvisits importing migrating cli.options cli.signals cli.tables cli.source cli.reports cli.care cli.feeding cli.exporting cli.migrating cli.serving cli.demo cli __main__
""".split()
# storage opens one of these when it is asked for it.
LATE = {("storage", "storage.sqlite"), ("storage", "storage.clickhouse")}


def imported(path: Path, module: str) -> set[str]:
    """Return the modules of this package that a module imports, TYPE_CHECKING included."""
    found = set()
    package = ["wsgi_tracker", *module.split(".")]
    if path.name != "__init__.py" or module == "__init__":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = package[1 : len(package) - node.level + 1]
            name = ".".join([*parts, node.module] if node.module else parts)
            for alias in node.names:
                inner = PACKAGE.joinpath(*name.split("."), f"{alias.name}.py")
                is_module = node.module is None and bool(name) and inner.exists()
                found.add(f"{name}.{alias.name}" if is_module else name or "__init__")
    return found


def modules() -> dict[str, Path]:
    """Return every module of the package by its name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts)
        found[name if name == "__init__" else name.removesuffix(".__init__")] = path
    return found


def test_every_module_has_its_place() -> None:
    assert sorted(modules()) == sorted(ORDER)


def test_imports_run_one_way() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, path in modules().items()
        for other in imported(path, module)
        if (module, other) not in LATE and ORDER.index(other) >= ORDER.index(module)
    ]

    assert wrong == []


def test_storage_knows_no_http_and_api_knows_no_sql() -> None:
    for name, path in modules().items():
        if name.startswith("storage"):
            assert "werkzeug" not in path.read_text().lower()
        else:
            assert "sqlite3" not in path.read_text()


def test_no_module_is_longer_than_400_lines() -> None:
    long = [str(path) for path in PACKAGE.rglob("*.py") if path.read_text().count("\n") > 400]

    assert long == []
