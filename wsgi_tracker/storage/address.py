"""Where a database is: a path, or the URL of a ClickHouse, read once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from ..errors import ConfigurationError

SCHEMES = {"clickhouse": ("http", 8123), "clickhouses": ("https", 8443)}
# What may stand in a statement as it is. A cluster's name also becomes part of a path.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
SPELLING = "clickhouse://user:password@host:8123/database?cluster=name&spool=/folder"


@dataclass(frozen=True, slots=True)
class Address:
    """A server, who asks it, and which database and cluster it is to use.

    ``origin`` is its URL without all that, for HTTP. The password is no part of what is shown.
    ``spool`` is the folder of this host in which visits wait.
    """

    origin: str
    database: str
    user: str = "default"
    password: str = field(default="", repr=False)
    cluster: str | None = None
    spool: Path = field(default=Path("visits-spool"), compare=False)

    def __str__(self) -> str:
        """Return the URL that was given, as far as it may be shown."""
        return f"clickhouse{self.origin.removeprefix('http')}/{self.database}"

    @property
    def headers(self) -> dict[str, str]:
        """What tells the server who asks: never part of a URL, as those end up in logs."""
        of_header = (text.encode().decode("latin-1") for text in (self.user, self.password))
        return dict(zip(("X-ClickHouse-User", "X-ClickHouse-Key"), of_header, strict=True))


def is_clickhouse(database: object) -> bool:
    """Return whether a database is named as one of ClickHouse."""
    scheme, separator, _ = str(database).partition("://")
    return bool(separator) and scheme in SCHEMES


def read_address(url: str) -> Address:
    """Read a URL; raises :exc:`ConfigurationError`, which does not repeat it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _wrong("its host or port cannot be read") from error
    scheme, default_port = SCHEMES[parts.scheme]
    if not parts.hostname:
        raise _wrong("it has no host")
    database = unquote(parts.path.removeprefix("/"))
    if not NAME.fullmatch(database):
        raise _wrong("its database is named by letters, digits and _")
    options = dict(parse_qsl(parts.query))
    cluster, spool = options.pop("cluster", None), options.pop("spool", f"{database}-spool")
    if options or parts.fragment:
        raise _wrong("cluster= and spool= are its only options")
    if cluster is not None and not NAME.fullmatch(cluster):
        raise _wrong("its cluster is named by letters, digits and _")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    user, password = unquote(parts.username or "default"), unquote(parts.password or "")
    if not (user + password).isprintable():
        raise _wrong("user and password are printable")
    origin = f"{scheme}://{host}:{port or default_port}"
    folder = Path(spool).expanduser().resolve()
    return Address(origin, database, user, password, cluster, folder)


def _wrong(what: str) -> ConfigurationError:
    return ConfigurationError(f"the database is {SPELLING}, but of the one given {what}")


def locate(database: str | Path | Address) -> Path | Address:
    """Return where a database is. Raises :exc:`ConfigurationError`."""
    if isinstance(database, Address):
        return database
    if isinstance(database, str) and is_clickhouse(database):
        return read_address(database)
    return database_path(database)


def spool_folder(place: Path | Address) -> Path:
    """Return the folder of this host in which visits wait for a database."""
    if isinstance(place, Address):
        return place.spool
    return place.with_name(place.name + "-spool")


def database_path(database: str | Path) -> Path:
    """Return the absolute path of a SQLite database, links resolved."""
    if not isinstance(database, (str, Path)):
        raise ConfigurationError(f"database is a path or sqlite:///path, given {database!r}")
    name = str(database)
    scheme, separator, rest = name.partition("://")
    if separator:
        is_path = rest.startswith("/") and len(rest) > 1 and not {"?", "#"} & set(rest)
        if scheme != "sqlite" or not is_path:
            raise ConfigurationError(
                f"database is a path or sqlite:///path, given {scheme + separator + '...'!r}"
            )
        name = rest[1:]
    if not name or name == ":memory:" or name.startswith("file:"):
        raise ConfigurationError(
            f"database is a file that processes can share, given {str(database)!r}"
        )
    return Path(name).expanduser().resolve()
