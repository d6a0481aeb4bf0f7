"""A server in front of the S3 server: it writes down every call, passes it on, and does to it what it is told to.

with front_of(s3_url) as front:
    front.refuse("GET", "policy", 403, "AccessDenied")
    front.lose_reply_if(lambda call: call.method == "PUT")
    S3Loader(...)  # with AWS_ENDPOINT_URL = front.url
    assert front.calls[0].method == "HEAD"
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from tests.proxy import ProxyHandler, Reply, serving


@dataclass(frozen=True)
class Call:
    """One request, as S3 sees it. ``key``: empty if about the bucket. ``query``: bare names have an empty value."""

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)

    @property
    def writes(self) -> bool:
        return self.method in ("PUT", "POST", "DELETE")

    def __str__(self) -> str:
        query = "&".join(name for name in self.query if name not in ("x-id", "list-type"))
        return f"{self.method} {self.key or self.bucket}{'?' if query else ''}{query}"


Wanted = Callable[[Call], bool]


class Front:
    """``calls``: in the order of their arrival. ``hidden``: names of headers, in lower case, that are not passed on."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.calls: list[Call] = []
        self.hidden: set[str] = set()
        self._refusals: list[tuple[Wanted, Reply]] = []
        self._resets: list[Wanted] = []
        self._losses: list[Wanted] = []

    def refuse(self, method: str, query_name: str, status: int, code: str = "", body: str | None = None) -> None:
        """Answer calls with this name in their query (``""``: with none) by an error, or by ``body`` as it is."""
        self.refuse_if(lambda call: call.method == method and query_name in (call.query or {""}), status, code, body)

    def refuse_if(self, wanted: Wanted, status: int, code: str, body: str | None = None) -> None:
        """Answer the calls that are ``wanted`` by an error, or by ``body`` as it is."""
        text = f"<Error><Code>{code}</Code><Message>refused by the test</Message></Error>" if body is None else body
        self._refusals.append((wanted, Reply(status, {}, text.encode())))

    def reset_if(self, wanted: Wanted) -> None:
        """Break the connection of the calls that are ``wanted``; the S3 server hears nothing of them."""
        self._resets.append(wanted)

    def lose_reply_if(self, wanted: Wanted) -> None:
        """Let the calls that are ``wanted`` take effect, and break the connection before the reply."""
        self._losses.append(wanted)

    def forget_refusals(self) -> None:
        self._refusals.clear()
        self._resets.clear()
        self._losses.clear()

    def refusal(self, call: Call) -> Reply | None:
        return next((reply for wanted, reply in self._refusals if wanted(call)), None)

    def resets(self, call: Call) -> bool:
        return any(wanted(call) for wanted in self._resets)

    def loses_reply(self, call: Call) -> bool:
        return any(wanted(call) for wanted in self._losses)


@contextmanager
def front_of(s3_url: str) -> Iterator[Front]:
    writing = threading.Lock()

    class Handler(ProxyHandler):
        def handle_call(self, body: bytes) -> None:
            place = urlsplit(self.path)
            _, bucket, *key = place.path.split("/", 2)
            query = {name: values[0] for name, values in parse_qs(place.query, keep_blank_values=True).items()}
            call = Call(self.command, bucket, unquote("".join(key)), query, dict(self.headers), body)
            front.calls.append(call)
            if front.resets(call):
                self.hang_up()
                return
            if refusal := front.refusal(call):
                self.answer(refusal)
                return
            # moto looks at a condition first and writes then: another write must not come between
            with writing if call.writes else nullcontext():
                reply = self.pass_on(s3_url, body, front.hidden)
            if front.loses_reply(call):
                self.hang_up()
                return
            self.answer(reply)

    with serving(Handler) as url:
        front = Front(url)
        yield front
