"""Packed visits as lines: for a storage that takes nothing else."""

from __future__ import annotations

import json

from ..visit import Visit
from . import Packed


def unpacked(packed: Packed) -> bytes:
    """Return one line for each visit."""
    places, clients, origins, visits = map(
        json.loads, (packed.places, packed.clients, packed.origins, packed.visits)
    )
    lines = []
    for place, client, origin, timestamp, duration_us, first_byte_us, bytes_sent, error in visits:
        fields = {**places[place], **clients[client], **origins[origin]}
        if fields["path"] == fields["endpoint"]:
            fields["path"] = None
        visit = Visit(
            timestamp,
            duration_us=duration_us,
            first_byte_us=first_byte_us,
            bytes_sent=bytes_sent,
            error=error,
            **fields,
        )
        lines.append(visit.line())
    return b"".join(lines)
