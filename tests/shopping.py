"""Visits of a small shop over some weeks, as the dashboard shows them in tests and on its pictures.

Drawn at random, but from one seed: the same for the same moment. Some come from whoever tries what a
careless page does with markup in each string that a client chooses.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

from wsgi_tracker import Tracker, Visit
from wsgi_tracker.period import DAY, HOUR, SECOND
from wsgi_tracker.segments import SUFFIX, header

SEED = 7
PAGES = {
    "/": 30,
    "/boxes": 24,
    "/boxes/<int:box_id>": 22,
    "/search": 9,
    "/cart": 7,
    "/checkout": 4,
    "/about": 3,
    "/blog/<slug>": 8,
    "/api/stock": 6,
    "/feed.xml": 2,
    "/export": 1,
}
SLOW = {"/search": 9.0, "/export": 60.0, "/checkout": 4.0, "/api/stock": 0.4}
FAILING = {"/export": 0.22, "/checkout": 0.03, "/api/stock": 0.008}
POSTS = {"/checkout": "POST", "/cart": "POST"}
DEAD = {"/old-catalogue": 9, "/boxes/retired": 4, "/wp-login.php": 6, "/.env": 3, "/boxes.html": 2}
PEOPLE = {
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/139.0.0.0 Safari/537.36": 30,
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/18.5 Mobile/15E148 Safari/604.1": 24,
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0": 14,
    "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/138.0.0.0 Mobile Safari/537.36": 18,
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/18.5 Safari/605.1.15": 11,
}
PROGRAMS = {
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)": 8,
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; "
    "+https://openai.com/gptbot)": 6,
    "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)": 4,
    "Feedly/1.0 (+https://feedly.com/poller.html; 12 subscribers)": 2,
    "curl/8.14.1": 3,
}
REFERERS = {
    None: 46,
    "https://www.google.com/": 22,
    "https://news.example.org/boxes-of-the-year": 9,
    "https://duckduckgo.com/": 6,
    "https://forum.example.net/t/which-box/4711": 5,
    "https://shop.example.com/boxes": 12,
}
HOSTS = {"shop.example.com": 30, "www.shop.example.com": 5}
MARKUP = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


def shopping(now: int, days: int, visitors_a_day: int) -> Iterator[Visit]:
    """Yield visits of so many days before ``now``, in microseconds since the epoch."""
    chance = random.Random(SEED)
    for day in range(days, -1, -1):
        start = now - now % DAY - day * DAY
        # Fewer at weekends; 1970 began on a Thursday.
        weekend = 0.62 if (start // DAY + 3) % 7 > 4 else 1.0
        growth = 1 + 0.25 * math.sin(day / 5) + 0.3 * (1 - day / days)
        for _ in range(round(visitors_a_day * weekend * growth)):
            yield from _session(chance, start, now)


def _session(chance: random.Random, day: int, now: int) -> Iterator[Visit]:
    """Yield what one visitor does, at daytime rather than at night."""
    hour = min(23.9, max(0.0, chance.gauss(14.5, 4.8)))
    timestamp = day + round(hour * HOUR)
    is_person = chance.random() < 0.8
    agent = _choice(chance, PEOPLE if is_person else PROGRAMS)
    number = int(chance.paretovariate(1.1) * 3) % 4000
    user, address = f"{number:04x}{hash_of(agent)}", f"198.51.{number // 250}.{number % 250 + 1}"
    referer = _choice(chance, REFERERS) if is_person else None
    host = _choice(chance, HOSTS)
    for _ in range(min(12, int(chance.expovariate(0.35)) + 1)):
        if timestamp >= now:
            return
        yield _visit(chance, timestamp, (user, agent, address, referer, host))
        referer = "https://shop.example.com/boxes" if referer else None
        timestamp += round(chance.expovariate(1 / 45) * SECOND) + SECOND


def hash_of(agent: str) -> str:
    return f"{random.Random(agent).getrandbits(112):028x}"


def _visit(
    chance: random.Random, timestamp: int, who: tuple[str, str, str, str | None, str]
) -> Visit:
    user, agent, address, referer, host = who
    if chance.random() < 0.045:
        path, endpoint, status = _choice(chance, DEAD), "(unmatched)", 404
    else:
        endpoint = _choice(chance, PAGES)
        path = endpoint.replace("<int:box_id>", str(chance.randrange(1, 40))).replace(
            "<slug>", chance.choice(["moving-house", "a-box-of-oak", "returns"])
        )
        failed = chance.random() < FAILING.get(endpoint, 0.0006)
        status = 500 if failed else 304 if chance.random() < 0.06 else 200
    duration = round(chance.lognormvariate(8.4, 0.7) * SLOW.get(endpoint, 1.0))
    return Visit(
        timestamp,
        user,
        POSTS.get(endpoint, "GET"),
        endpoint,
        path=None if path == endpoint else path,
        status=status,
        duration_us=duration,
        first_byte_us=duration,
        bytes_sent=0 if status == 304 else chance.randrange(800, 24_000),
        error=chance.choice(["TimeoutError", "KeyError"]) if status == 500 else None,
        ip_address=address,
        user_agent=agent,
        referer=referer,
        host=host,
    )


def hostile(now: int) -> Iterator[Visit]:
    """Yield visits with markup in every string that a client chooses, and in the others too."""
    for number, prefix in enumerate(("", "=", "javascript:", '"', "'", "</td>")):
        text = prefix + MARKUP
        yield Visit(
            now - (number + 1) * 60 * SECOND,
            "f" * 32,
            "GET",
            f"/{text}",
            path=f"/{text}/path",
            status=404,
            duration_us=900_000_000,
            bytes_sent=10,
            error=text,
            ip_address="203.0.113.66",
            user_agent=text,
            referer=f"https://{text}",
            host=text,
        )


def wordy(now: int) -> Iterator[Visit]:
    """Yield visits whose every text is long, with spaces in it and without."""
    for number, text in enumerate(("long words " * 30, "x" * 300)):
        yield Visit(
            now - (number + 1) * DAY,
            "d" * 32,
            "PROPPATCH",
            f"/{text}",
            path=f"/{text}/path",
            status=(404, 500)[number],
            duration_us=828_000_000,
            bytes_sent=10,
            error=f"{text}Error",
            ip_address="2001:db8:1234:5678:9abc:def0:1234:5678",
            user_agent=f"Mozilla {text}",
            referer=f"https://{'sub.' * 50}example.org/{text}",
            host=f"{'host.' * 40}example.com",
        )


def ambiguous(now: int) -> Iterator[Visit]:
    """Yield visits with values that a filter takes for something else, and what that would find."""
    for path, host in (("/*[ab]?", "-x"), ("/xax", "x")):
        yield Visit(now - 60 * SECOND, "e" * 32, "GET", "(unmatched)", path, 404, host=host)


def _choice(chance: random.Random, weights: dict[str, int] | dict[str | None, int]) -> str:
    return chance.choices(tuple(weights), tuple(weights.values()))[0]  # type: ignore[return-value]


def fill(database: Path, visits: Iterator[Visit], segment: int = 1) -> None:
    """Make a database of these visits."""
    with Tracker(lambda environ, start_response: [], database, require_token=False):
        pass
    name = f"{segment:032x}"
    spool = database.with_name(f"{database.name}-spool")
    lines = b"".join(visit.line() for visit in visits)
    (spool / f"{name}{SUFFIX}").write_bytes(header(name) + lines)
    with Tracker(lambda environ, start_response: [], database, require_token=False) as tracker:
        tracker._backend.ingester.catch_up(60.0)
