"""What shards a cluster has, and whether the visits of each user are on one of them.

They are as long as all visits were shared out among the same shards: then each shard counts its users
by itself, and nothing but numbers is sent. Else they are compared, as exact, and slower.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ...errors import StorageError
from .client import Client
from .literals import bind
from .questions import Rows
from .settings import Settings

# A shard is known by its first replica.
LAYOUT = """
SELECT shard_weight, host_name, port FROM system.clusters WHERE cluster = {cluster} AND replica_num = 1
ORDER BY shard_num"""
SETTING = "layout"
SEVERAL = "several"


class Shards:
    """The shards of the cluster that an address names; without one, all is on one server."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._noted = ""

    def layout(self) -> str:
        """Return what tells how a batch is split; empty on one server."""
        cluster = self._client.address.cluster
        if not cluster:
            return ""
        rows = self._client.rows(bind(LAYOUT, {"cluster": cluster}))
        if not rows:
            raise StorageError(f"{self._client.address} knows no cluster {cluster}")
        return " ".join(f"{weight}*{host}:{port}" for weight, host, port in rows)

    def note(self, layout: str) -> None:
        """Have it known that visits will be shared out so."""
        if layout == self._noted:
            return
        known = self._settings.keep({SETTING: layout})[SETTING]
        if known not in (layout, SEVERAL):
            self._settings.write({SETTING: SEVERAL})
        self._noted = layout

    def rows(self, known: str | None) -> Rows:
        """Return what asks all shards, each to count by itself if that layout is all there was."""
        if known and known == self.layout():
            apart: dict[str, Any] = {"distributed_group_by_no_merge": 1}
            return partial(self._client.rows, **apart)
        return self._client.rows
