"""Takes secrets out of text before a person, a log or a report sees it."""

from __future__ import annotations

import os
import re

_MASK = "***"
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE", re.IGNORECASE)
_SHORTEST_SECRET = 6

# In each, group 1 tells that a secret comes, and stays; what follows it is the secret.
_RULES = tuple(
    re.compile(rule)
    for rule in (
        # user:password@ in any URL, and the whole query string, but for the colon or the like behind it: signatures and
        # keys travel there
        r"(://)(?!user:password@)[^/@\s'\"]+(?=@)",  # those are the words of our own examples
        r"(?i)(\b[a-z][a-z0-9+.-]*://[^\s?'\"<>]+\?)[^\s'\"<>)]*[^\s'\"<>),.:;]",
        # a path with a query, as urllib3 logs and quotes it
        r"((?:^|[\s'\"(])/[^\s?'\"]*\?)[^\s'\"<>)]*[^\s'\"<>),.:;]",
        r"(?i)\b((?:X-Amz-[a-z-]+|AWSAccessKeyId|Signature|SignedHeaders|Credential)=)[^\s&,'\"]+",
        r"(?i)((?:authorization|x-amz-security-token|x-api-key|cookie)['\"]?\s*[:=]\s*b?['\"]?)[^'\"\r\n]+",
        r"\b((?:Bearer|Basic)\s+)[A-Za-z0-9+/=._~-]{8,}",
        r"\b()(?:AKIA|ASIA)[A-Z0-9]{12,}\b",
        # not the name of an option before what is wrong with it
        (
            r"(?i)((?:password|passwd|secret|token|api_?key)['\"]?\s*[=:]"
            r"(?! (?:the environment variable|missing;) )\s*['\"]?)[^\s&'\",;)]+"
        ),
    )
)


def redact(text: str) -> str:
    """Mask secrets in ``text``: what looks like one, and the values of environment variables named like one."""
    for rule in _RULES:
        text = rule.sub(rf"\1{_MASK}", text)
    for secret in _environment_secrets():
        text = text.replace(secret, _MASK)
    return text


def _environment_secrets() -> list[str]:
    values = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    return sorted((value for value in values if len(value) >= _SHORTEST_SECRET), key=len, reverse=True)
