"""What a user agent is: its class and the rule that says so, browser, system and device.

The rules are those of crawler-user-agents, and some names of our own where it has none, or does not
tell AI training from AI assistants; who none of them names is a person if ua-parser finds a
browser.
Both packages are optional, and loaded when a user agent is to be classified: who ingests none does
not pay. Not here: which user agents are new, and where it is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any, TypeAlias

from .errors import logger

CLASSES = (
    "human search ai_training ai_assistant feed monitor preview scanner crawler tool empty unknown"
).split()
PACKAGES = ("crawler-user-agents", "ua-parser", "ua-parser-builtins")
RULES = 2  # the version of what this module knows itself: raise it with every change
NO_CLASSES = "pip install 'wsgi-tracker[agents]'"
# The time that ua-parser's expressions take grows with the square of the length.
MAX_PARSED = 512

# What a user agent holds, in any case; the first that is found counts. They go before the rules of
# crawler-user-agents, but tools behind: many a crawler also names the library it is made with.
NAMES: Mapping[str, str] = {
    # reads a page to answer somebody's question, or finds it for such answers
    "ai_assistant": """
        ChatGPT-User, OAI-SearchBot, Claude-User, Claude-SearchBot, PerplexityBot, Perplexity-User,
        Gemini-Deep-Research, Google-NotebookLM, Google-CloudVertexBot, Google-Agent, GoogleAgent-,
        NovaAct, Andibot, Google-Gemini-CLI, MistralAI-User, DuckAssistBot, YouBot, PhindBot,
        meta-externalfetcher, meta-webindexer, Amzn-User, Amzn-SearchBot, AmazonBuyForMe,
        Bedrock-AgentCore, AzureAI-SearchBot, atlassian-bot, Cloudflare-AutoRAG, kagi-fetcher,
        LinkupBot, TavilyBot, ShapBot, Anomura, bigsur.ai, ZanistaBot, Aranet-SearchBot, iaskspider,
        LinerBot, linkReader/, IsonAI-User, Poggio-Citations, Manus-User, TwinAgent, Anchor Browser,
        opencode-smartfetch, Devin/""",
    # collects what models learn from
    "ai_training": """
        GPTBot, ClaudeBot, Claude-Web, anthropic-ai, CCBot, Bytespider, TikTokSpider, GoogleOther,
        meta-externalagent, FacebookBot, Amazonbot, Applebot-Extended, cohere-ai, AI2Bot, Diffbot,
        DeepSeekBot, PanguBot, Timpibot, omgili, xAI-Bot, GrokBot, SBIntuitionsBot, Cotoyogi,
        ICC-Crawler""",
    "monitor": """
        kube-probe/, ELB-HealthChecker, GoogleHC/, Health-Check-Service, Health Check, Prometheus/,
        UptimeRobot, Pingdom, StatusCake, NewRelicPinger, Datadog/Synthetics, Envoy/HC,
        Edge Health Probe, Load Balancer Agent""",
    "preview": "Cardyb, Misskey, Pleroma, Akkoma",
    "scanner": """
        nuclei, sqlmap, nikto, zgrab, masscan, Nmap Scripting Engine, CensysInspect, gobuster, wfuzz,
        Fuzz Faster U Fool, feroxbuster, dirsearch, w3af, arachni, InternetMeasurement, l9tcpid,
        libredtail-http, ModatScanner, GenomeCrawlerd, Qualys, getodin.com, WhatWeb, OWASP ZAP""",
    "feed": """
        NetNewsWire, Reeder/, Feedfetcher-Google, AntennaPod, RSS Reader, newsboat, Liferea,
        Akregator, FeedDemon, feedparser, Podcasts/, rss2email, Fluent Reader""",
    "tool": """
        curl, Wget, python, Go-http-client, okhttp, axios, Java/, libwww-perl, HttpClient, HTTPie,
        Postman, insomnia/, node-fetch, undici, Deno/, Bun/, Dart/, reqwest/, hyper/, Ruby, Faraday,
        Guzzle, PHP/, PowerShell, aria2/, Dalvik/, CFNetwork/, AppleCoreMedia, Scrapy,
        HeadlessChrome, PhantomJS, WinHttp, Microsoft-CryptoAPI, WebDAV, Boto3, aws-sdk-, RestSharp,
        Alamofire, Typhoeus, Thunder Client, ApacheBench, Siege/, k6.io, GitHub-Hookshot,
        APT-HTTP""",
}
# Rules of crawler-user-agents that the browsers of people fit: a build of Android, and the names of
# apps that show pages. Programs of the last three say that they are some, too.
PEOPLE = ("AP3A.240617.008", "MetaIAB Facebook", "Sonic", "PayPal/", "Notion/")
# What the tags of crawler-user-agents mean; of several, the first here counts.
TAGS: Mapping[str, str] = {
    "scanner": "scanner",
    "social-preview": "preview",
    "ai-crawler": "ai_training",
    "monitoring": "monitor",
    "feed-reader": "feed",
    "search-engine": "search",
    "seo": "crawler",
    "advertising": "crawler",
    "archiver": "crawler",
    "academic": "crawler",
    "browser-automation": "tool",
    "http-library": "tool",
}
# How programs name themselves that no list knows. CUBOT makes telephones.
PROGRAM = re.compile(r"(?<!cu)bot(?![a-z])|crawl|spider|scrape|fetcher|scanner|https?://", re.I)
# Whatever people read pages with begins so; ua-parser knows libraries, players and apps, too.
BROWSERS = ("Mozilla/", "Opera/", "Lynx/", "Links ", "ELinks/", "Dillo/", "UCWEB/")

_ESCAPED = re.compile(r"\\(\W)")
_SPECIAL = re.compile(r"[][.^$*+?{}|()\\]")


@dataclass(frozen=True, slots=True)
class Agent:
    """What is known of a user agent; ``rule`` names what decided its class.

    Browser, system and device are looked for only where no rule names a program.
    """

    agent_class: str
    rule: str
    browser: str | None = None
    system: str | None = None
    device: str | None = None


Classify: TypeAlias = Callable[[str], Agent]
Found: TypeAlias = "tuple[str, str]"  # class and rule


class Classifier:
    """Classify user agents by ``crawlers``, the list of crawler-user-agents, and ``parse``.

    ``parse`` is ua-parser's. Never raises.
    """

    def __init__(self, crawlers: Iterable[Mapping[str, Any]], parse: Callable[[str], Any]) -> None:
        self._parse = parse
        self._names: list[tuple[str, Found]] = [
            (name.lower(), (agent_class, f"name: {name}"))
            for agent_class, names in NAMES.items()
            for name in map(str.strip, names.split(","))
        ]
        # Nearly all patterns are plain text, which is found 20 times as fast; the longest first.
        self._texts: list[tuple[str, Found]] = []
        self._expressions: list[tuple[re.Pattern[str], Found]] = []
        for crawler in crawlers:
            pattern = crawler["pattern"]
            text = _ESCAPED.sub(r"\1", pattern)
            if text in PEOPLE:
                continue
            found = _class_of(crawler["tags"]), f"crawler-user-agents: {text}"
            if _SPECIAL.search(_ESCAPED.sub("", pattern)):
                self._expressions.append((re.compile(pattern), found))
            else:
                self._texts.append((text, found))
        self._texts.sort(key=lambda known: -len(known[0]))

    def __call__(self, user_agent: str) -> Agent:
        """Return what a user agent is."""
        if not user_agent.strip():
            return Agent("empty", "empty")
        named, listed = self._find_name(user_agent), self._find_listed(user_agent)
        for found in (named, listed):
            if found and found[0] != "tool":
                return Agent(*found)
        if found := named or listed:
            return Agent(*found)
        if program := PROGRAM.search(user_agent):
            return Agent("crawler", f"word: {program[0].lower()}")
        return self._look_for_browser(user_agent)

    def _find_name(self, user_agent: str) -> Found | None:
        lower = user_agent.lower()
        return next((found for name, found in self._names if name in lower), None)

    def _find_listed(self, user_agent: str) -> Found | None:
        """Return the rule that fits most of the text, as others may fit a part of the name."""
        longest, best = 0, None
        for text, found in self._texts:
            if text in user_agent:
                longest, best = len(text), found
                break
        for expression, found in self._expressions:
            if (match := expression.search(user_agent)) and len(match[0]) > longest:
                longest, best = len(match[0]), found
        return best

    def _look_for_browser(self, user_agent: str) -> Agent:
        try:
            parsed = self._parse(user_agent[:MAX_PARSED])
        except Exception as error:  # whatever a client can make it do, visits are ingested
            return Agent("unknown", f"ua-parser: {type(error).__name__}")
        browser, system, device = (
            part.family if part else None for part in (parsed.user_agent, parsed.os, parsed.device)
        )
        if device == "Spider":
            return Agent("crawler", f"ua-parser: {browser or device}")
        known = browser
        if device and "AppleWebKit/" in user_agent:  # a console's browser has no name
            known = browser or device
        if known is None:
            return Agent("unknown", "none", None, system, device)
        is_human = user_agent.startswith(BROWSERS)
        return Agent(
            "human" if is_human else "unknown", f"ua-parser: {known}", browser, system, device
        )


def _class_of(tags: Iterable[str]) -> str:
    tags = set(tags)
    if tags >= {"ai-crawler", "search-engine"}:
        return "ai_assistant"
    return next((TAGS[tag] for tag in TAGS if tag in tags), "crawler")


@lru_cache(maxsize=1)
def data_version() -> str | None:
    """Return which data classify user agents here; ``None`` where a package is not installed."""
    try:
        known = [f"{package} {version(package)}" for package in PACKAGES]
    except (ImportError, OSError):  # or out of reach, since this process became another user's
        return None
    return ", ".join([*known, f"rules {RULES}"])


@lru_cache(maxsize=1)
def load_classifier() -> Classifier | None:
    """Return what classifies, or ``None`` without the packages.

    The first call takes 0.2 s and some 10 MB; what it loads is never let go.
    """
    if data_version() is None:
        return None
    try:
        import ua_parser
        from crawleruseragents import CRAWLER_USER_AGENTS_DATA

        ua_parser.parse("")  # has it load its rules
        return Classifier(CRAWLER_USER_AGENTS_DATA, ua_parser.parse)
    except Exception as error:  # a release unlike those that are known must not stop ingest
        logger.error("user agents stay unknown: %s cannot be used: %r", data_version(), error)
        return None
