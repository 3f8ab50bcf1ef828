"""What a user agent is: real ones, those that only try to be, and what they cost."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
from crawleruseragents import CRAWLER_USER_AGENTS_DATA

from wsgi_tracker import agents
from wsgi_tracker.agents import (
    CLASSES,
    MAX_PARSED,
    PEOPLE,
    TAGS,
    Agent,
    Classifier,
    load_classifier,
)

CHROME = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15"
ANDROID = "Mozilla/5.0 (Linux; Android 13; SM-S911B) AppleWebKit/537.36 (KHTML, like Gecko)"
WEBKIT = "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible;"
REAL = {
    "human": [
        f"{CHROME}/131.0.0.0 Safari/537.36",
        f"{CHROME}/131.0.0.0 Safari/537.36 Edg/131.0.0.0",
        "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        f"{IPHONE} (KHTML, like Gecko) Version/17.4 Mobile/15E148 Safari/604.1",
        f"{IPHONE} (KHTML, like Gecko) Mobile/15E148",
        f"{IPHONE} (KHTML, like Gecko) Mobile/15E148 [FBAN/FBIOS;FBAV/450.0.0.38.108;FBBV/1]",
        "Mozilla/5.0 (Linux; Android 10; CUBOT_X18) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/120.0.0.0 Mobile Safari/537.36",
        "Mozilla/5.0 (SMART-TV; Linux; Tizen 6.0) AppleWebKit/538.1 (KHTML, like Gecko) "
        "Version/6.0 TV Safari/538.1",
        "Mozilla/4.0 (compatible; MSIE 8.0; Windows NT 6.1; Trident/4.0)",
        "Opera/9.80 (Windows NT 6.1; WOW64) Presto/2.12.388 Version/12.18",
        "Lynx/2.8.9rel.1 libwww-FM/2.14 SSL-MM/1.4.1",
        "Dillo/3.1.1",
        "Mozilla/5.0 (Windows NT 6.1; WOW64; Trident/7.0; rv:11.0) like Gecko",
        f"{CHROME}/64.0.3282.140 Safari/537.36 Edge/18.17763",
        f"{CHROME}/131.0.0.0 Safari/537.36 Vivaldi/7.0.3495.11",
        f"{ANDROID} SamsungBrowser/27.0 Chrome/125.0.0.0 Mobile Safari/537.36",
        f"{ANDROID} Version/4.0 Chrome/131.0.6778.104 Mobile Safari/537.36 "
        "Instagram 361.0.0.46.88 Android (33/13; 480dpi; 1080x2125; samsung; SM-S911B; dm1q)",
        f"{ANDROID} Version/4.0 Chrome/131.0 Mobile Safari/537.36;KAKAOTALK 2510850",
        "Mozilla/5.0 (Linux; Android 15; CPH2557 Build/AP3A.240617.008; wv) AppleWebKit/537.36 "
        "(KHTML, like Gecko) Version/4.0 Chrome/142.0.7444.142 Mobile Safari/537.36",
        "Mozilla/5.0 (Linux; Android 16; Pixel 10 Build/CP1A.260305.018; wv) AppleWebKit/537.36 "
        "(KHTML, like Gecko) Version/4.0 Chrome/146.0 Mobile Safari/537.36 MetaIAB Facebook",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Slack/4.41.105 Chrome/130.0.6723.137 Electron/33.2.1 Safari/537.36 Sonic Slack_SSB/4.41.105",
        f"{IPHONE} (KHTML, like Gecko) Mobile/15E148 MicroMessenger/8.0.48(0x1800302d) NetType/WIFI",
        f"{IPHONE} (KHTML, like Gecko) Mobile/15E148 Snapchat/12.80.0.38 (like Safari/8616.2.9)",
        f"{IPHONE} (KHTML, like Gecko) Safari Line/14.3.0",
        f"{IPHONE} (KHTML, like Gecko) GSA/343.0.696620236 Mobile/15E148 Safari/604.1",
        "Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/87.0.4280.88 Safari/537.36 WebAppManager",
        "Mozilla/5.0 (Linux; Android 9; AFTMM Build/PS7659) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Silk/120.4.1 like Chrome/120.0.6099.230 Safari/537.36",
        "Mozilla/5.0 (PlayStation; PlayStation 5/9.00) AppleWebKit/605.1.15 (KHTML, like Gecko) "
        "Version/17.0 Safari/605.1.15",
        "Mozilla/5.0 (PlayStation 4 3.11) AppleWebKit/537.73 (KHTML, like Gecko)",
        "Mozilla/5.0 (Nintendo Switch; WifiWebAuthApplet) AppleWebKit/609.4 (KHTML, like Gecko) "
        "NF/6.0.2.21.3 NintendoBrowser/5.1.0.22474",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64; Xbox; Xbox One) AppleWebKit/537.36 (KHTML, like "
        "Gecko) Chrome/131.0.0.0 Safari/537.36 Edg/131.0.0.0",
        "Mozilla/5.0 (Mobile; Nokia_8110_4G; rv:48.0) Gecko/48.0 Firefox/48.0 KAIOS/2.5",
    ],
    "search": [
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) AppleWebKit/537.36 (KHTML, "
        "like Gecko) Chrome/131.0.0.0 Mobile Safari/537.36 (compatible; Googlebot/2.1; "
        "+http://www.google.com/bot.html)",
        "Googlebot-Image/1.0",
        "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_5) AppleWebKit/605.1.15 (KHTML, like Gecko) "
        "Version/13.1.1 Safari/605.1.15 (Applebot/0.1; +http://www.apple.com/go/applebot)",
        "DuckDuckBot/1.1; (+http://duckduckgo.com/duckduckbot.html)",
        "Mozilla/5.0 (compatible; YandexBot/3.0; +http://yandex.com/bots)",
        "Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)",
    ],
    "ai_training": [
        f"{WEBKIT} GPTBot/1.2; +https://openai.com/gptbot)",
        f"{WEBKIT} ClaudeBot/1.0; +claudebot@anthropic.com)",
        "CCBot/2.0 (https://commoncrawl.org/faq/)",
        f"{WEBKIT} Bytespider; spider-feedback@bytedance.com)",
        "meta-externalagent/1.1 (+https://developers.facebook.com/docs/sharing/webmasters/crawler)",
        "SBIntuitionsBot/0.1",
        f"{WEBKIT} Amazonbot/0.1; +https://developer.amazon.com/support/amazonbot)",
    ],
    "ai_assistant": [
        f"{WEBKIT} OAI-SearchBot/1.0; +https://openai.com/searchbot)",
        f"{WEBKIT} ChatGPT-User/1.0; +https://openai.com/bot",
        f"{WEBKIT} Claude-User/1.0; +Claude-User@anthropic.com)",
        f"{WEBKIT} PerplexityBot/1.0; +https://perplexity.ai/perplexitybot)",
        f"{WEBKIT} Perplexity-User/1.0; +https://perplexity.ai/perplexity-user)",
        f"{WEBKIT} MistralAI-User/1.0; +https://docs.mistral.ai/robots)",
        f"{CHROME}/141.0.0.0 Safari/537.36 Agent-NovaAct/0.9",
        f"{WEBKIT} GoogleAgent-URLContext)",
        "DuckAssistBot/1.2; (+http://duckduckgo.com/duckassistbot.html)",
    ],
    "feed": [
        "Feedly/1.0 (+http://www.feedly.com/fetcher.html; 16 subscribers; like FeedFetcher-Google)",
        "Mozilla/5.0 (compatible; Miniflux/2.0.50; +https://miniflux.app)",
        "NetNewsWire (RSS Reader; https://netnewswire.com/)",
        "newsboat/2.33.0 (Linux x86_64)",
        "Liferea/1.15.2 (Linux; https://lzone.de/liferea/) AppleWebKit (KHTML, like Gecko)",
        "feedparser/6.0.10 +https://github.com/kurtmckee/feedparser/",
        "FreshRSS/1.23.1 (Linux; https://freshrss.org)",
    ],
    "monitor": [
        "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)",
        "Pingdom.com_bot_version_1.4_(http://www.pingdom.com/)",
        f"{CHROME}/98 Safari/537.36 StatusCake",
        "kube-probe/1.28",
        "ELB-HealthChecker/2.0",
        "GoogleHC/1.0",
        "Envoy/HC",
        "Edge Health Probe",
        "Consul Health Check",
        "check_http/v2.3.3 (nagios-plugins 2.3.3)",
    ],
    "preview": [
        "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
        "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
        "Twitterbot/1.0",
        "Mozilla/5.0 (compatible; Bluesky Cardyb/1.1; +mailto:support@bsky.app)",
        "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
        "WhatsApp/2.23.20.0 A",
        "TelegramBot (like TwitterBot)",
        "LinkedInBot/1.0 (compatible; Mozilla/5.0; +http://www.linkedin.com)",
    ],
    "scanner": [
        "Nuclei - Open-source project (github.com/projectdiscovery/nuclei)",
        "sqlmap/1.7.2#stable (https://sqlmap.org)",
        "Mozilla/5.00 (Nikto/2.1.5) (Evasions:None) (Test:Port Check)",
        "Mozilla/5.0 zgrab/0.x",
        "libredtail-http",
        "Mozilla/5.0 (compatible; ModatScanner/1.0; +https://modat.io/)",
        "masscan/1.3 (https://github.com/robertdavidgraham/masscan)",
        "Mozilla/5.0 (compatible; CensysInspect/1.1; +https://about.censys.io/)",
        "Mozilla/5.0 (compatible; Nmap Scripting Engine; https://nmap.org/book/nse.html)",
    ],
    "crawler": [
        "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)",
        "Mozilla/5.0 (compatible; archive.org_bot +http://archive.org/details/archive.org_bot)",
        "AdsBot-Google (+http://www.google.com/adsbot.html)",
        "Mozilla/5.0 (compatible; Nobody-Knows-It-Bot/1.0)",
        "Mozilla/5.0 (compatible; GomezAgent/1.0)",
        f"{CHROME}/131.0.0.0 Safari/537.36 (+https://boxes.example/about)",
    ],
    "tool": [
        "curl/8.4.0",
        "Wget/1.21.3",
        "python-requests/2.31.0",
        "Python/3.11 aiohttp/3.9.1",
        "Go-http-client/2.0",
        "okhttp/4.12.0",
        "axios/1.6.2",
        "Java/17.0.1",
        "libwww-perl/6.67",
        "Typhoeus - https://github.com/typhoeus/typhoeus",
        "Boto3/1.34",
        "GitHub-Hookshot/044aadd",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 HeadlessChrome/120.0.0.0 Safari/537.36",
        "Mozilla/5.0 (Windows NT; Windows NT 10.0; en-US) WindowsPowerShell/5.1.19041.3803",
        "Dalvik/2.1.0 (Linux; U; Android 13; SM-A536B Build/TP1A.220624.014)",
    ],
    "empty": ["", "  "],
    "unknown": ["Mozilla/5.0", "Mozilla/5.0 (Windows NT 10.0; Win64; x64)", "x", "VLC/3.0.20"],
}


@pytest.fixture(scope="module")
def classify() -> Classifier:
    classifier = load_classifier()
    assert classifier is not None
    return classifier


@pytest.mark.parametrize(
    ("agent_class", "user_agent"),
    [(agent_class, user_agent) for agent_class, known in REAL.items() for user_agent in known],
)
def test_real_user_agents_have_their_class(
    agent_class: str, user_agent: str, classify: Classifier
) -> None:
    agent = classify(user_agent)

    assert agent.agent_class == agent_class, agent.rule


def test_there_are_real_user_agents_of_every_class() -> None:
    assert sorted(REAL) == sorted(CLASSES)


def test_no_instance_of_a_known_crawler_counts_as_human_or_unknown(classify: Classifier) -> None:
    wrong = [
        (instance, agent)
        for crawler in CRAWLER_USER_AGENTS_DATA
        for instance in crawler["instances"]
        if not any(name in instance for name in PEOPLE[:2])
        and (agent := classify(instance)).agent_class in ("human", "unknown", "empty")
    ]

    assert wrong == []


def test_every_tag_of_the_list_has_a_class() -> None:
    assert {tag for crawler in CRAWLER_USER_AGENTS_DATA for tag in crawler["tags"]} == set(TAGS)
    assert set(TAGS.values()) | set(agents.NAMES) <= set(CLASSES)


def test_browser_system_and_device_are_found(classify: Classifier) -> None:
    user_agent = f"{IPHONE} (KHTML, like Gecko) Version/17.4 Mobile/15E148 Safari/604.1"

    assert classify(user_agent) == Agent(
        "human", "ua-parser: Mobile Safari", "Mobile Safari", "iOS", "iPhone"
    )


@pytest.mark.parametrize(
    ("user_agent", "rule"),
    [
        pytest.param("GPTBot/1.2", "name: GPTBot", id="ours"),
        pytest.param("AhrefsBot/7.0", "crawler-user-agents: Ahrefs(Bot|SiteAudit)", id="theirs"),
        pytest.param("W3C-checklink libwww-perl", "crawler-user-agents: W3C-checklink", id="both"),
        pytest.param("Acme-Spider", "word: spider", id="word"),
        pytest.param("GomezAgent/1.0", "ua-parser: GomezAgent", id="spider of ua-parser"),
        pytest.param("", "empty", id="none"),
        pytest.param("x", "none", id="nothing known"),
    ],
)
def test_rule_names_what_decided(user_agent: str, rule: str, classify: Classifier) -> None:
    assert classify(user_agent).rule == rule


@pytest.mark.parametrize("reverse", [False, True])
def test_longest_text_decides_whatever_the_order(reverse: bool) -> None:
    crawlers: list[Any] = [
        {"pattern": "mail\\.box", "tags": ["feed-reader"]},
        {"pattern": "Box[ck]", "tags": ["seo"]},
        {"pattern": "Boxcrawler", "tags": ["search-engine"]},
    ]
    classify = Classifier(crawlers[::-1] if reverse else crawlers, lambda text: None)

    assert classify("Boxcrawler (mail.box)").agent_class == "search"
    assert classify("Boxc (mail.box)").agent_class == "feed"
    assert classify("Boxc").agent_class == "crawler"


def test_what_makes_ua_parser_fail_is_unknown() -> None:
    def parse(text: str) -> Any:
        raise ValueError(text)

    assert Classifier([], parse)("Mozilla/5.0 x") == Agent("unknown", "ua-parser: ValueError")


def test_ua_parser_never_sees_more_than_it_can_take() -> None:
    seen: list[str] = []

    def parse(text: str) -> Any:
        seen.append(text)
        raise ValueError

    Classifier([], parse)("Mozilla/5.0 " + "APX; " * 1000)

    assert [len(text) for text in seen] == [MAX_PARSED]


def test_data_of_another_shape_are_not_used_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "wsgi_tracker")
    monkeypatch.setattr("crawleruseragents.CRAWLER_USER_AGENTS_DATA", [{"name": "Boxbot"}])

    assert load_classifier.__wrapped__() is None
    assert "KeyError('pattern')" in caplog.text


LAZY = """
import json
import sys
from wsgi_tracker import Tracker

def app(environ, start_response):
    start_response("200 OK", [])
    return [b""]

def ask(path, query=""):
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "HTTP_USER_AGENT": sys.argv[1]}
    environ["QUERY_STRING"] = query
    return b"".join(tracker(environ, lambda *started: None))

def loaded():
    return [name for name in ("crawleruseragents", "ua_parser") if name in sys.modules]

with Tracker(app, sys.argv[2], ingest=False) as tracker:
    ask("/")
    print(loaded())
    report = json.loads(ask("/api/tracking/summary", "class=human"))
    print(loaded(), report["total_hits"])
"""


def test_only_who_ingests_a_new_user_agent_loads_the_packages(tmp_path: Any) -> None:
    command = [sys.executable, "-c", LAZY, f"{CHROME}/131.0.0.0 Safari/537.36"]

    def run() -> list[str]:
        return subprocess.run(
            [*command, str(tmp_path / "visits.db")],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
            env={"PYTHONPATH": ":".join(sys.path)},
        ).stdout.splitlines()

    assert run() == ["[]", "['crawleruseragents', 'ua_parser'] 1"]
    assert run() == ["[]", "[] 2"]
