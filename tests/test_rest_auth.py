"""RestExtractor: who asks, where credentials go, and that nobody sees them."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from etl.errors import AccessError, EtlError, SourceError
from etl.extractors.rest import RestExtractor
from etl.ledger import Account
from tests.reading import frame_of
from tests.rest_api import (
    CURSOR,
    IDS,
    ROWS,
    all_at_once,
    by_cursor,
    by_three_pages,
    ids_of,
    json_answer,
    make,
    page_from,
    query,
)
from tests.web import Answer, Request, WebServer


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        ({"type": "bearer", "token": "hush-hush"}, "Authorization", "Bearer hush-hush"),
        ({"type": "basic", "username": "ann", "password": "hüsh"}, "Authorization", "Basic YW5uOmjDvHNo"),
        ({"type": "api_key", "key": "hush-hush", "header": "X-API-Key"}, "x-api-key", "hush-hush"),
    ],
)
def test_every_request_is_signed(web: WebServer, auth: Any, header: str, value: str) -> None:
    cursor = by_three_pages(web)
    assert ids_of(make(cursor.url, auth=auth, **CURSOR.options)) == IDS
    assert [request.headers[header] for request in web.requests] == [value] * 3


def test_a_key_in_the_query_is_sent_once_with_every_page(web: WebServer) -> None:
    def echoing(request: Request) -> Answer:
        rows, more = page_from(int(query(request).get("start", 0)))
        return json_answer({"items": rows, "next": f"/items?start={more}&key=k%26" if more else None})

    auth = {"type": "api_key", "key": "k&", "param": "key"}
    extractor = make(
        web.script("/items", echoing), auth=auth, records="items", pagination={"type": "next_url", "path": "next"}
    )
    assert ids_of(extractor) == IDS
    assert [request.path for request in web.requests] == [
        "/items?key=k%26",
        "/items?start=3&key=k%26",
        "/items?start=6&key=k%26",
    ]


class Tokens:
    """Gives tokens t1, t2, ..., and refuses all but those that are good."""

    def __init__(self, web: WebServer, **answer: Any) -> None:
        self.given = 0
        self.good: Callable[[str], bool] = lambda token: True
        self._answer = answer
        self.token_url = web.script("/token", self._give)
        self.url = web.script("/items", self._guarded)

    def extractor(self, **auth: Any) -> RestExtractor:
        client = {"type": "oauth2", "token_url": self.token_url, "client_id": "me", "client_secret": "hush-hush"}
        return make(self.url, auth={**client, **auth}, headers={"X-Mine": "1"}, **CURSOR.options)

    def _give(self, request: Request) -> Answer:
        self.given += 1
        return json_answer({"access_token": f"t{self.given}", "token_type": "Bearer", **self._answer})

    def _guarded(self, request: Request) -> Answer:
        kind, _, token = str(request.headers["Authorization"]).partition(" ")
        return by_cursor(request) if kind == "Bearer" and self.good(token) else json_answer({}, status=401)


class TestOAuth2:
    def test_one_token_serves_a_reading(self, web: WebServer) -> None:
        tokens = Tokens(web, expires_in=3600)
        assert ids_of(tokens.extractor(scope="read", parameters={"audience": "all of them"})) == IDS
        asked, *pages = web.requests
        assert (asked.method, asked.path) == ("POST", "/token")
        assert asked.body == b"grant_type=client_credentials&scope=read&audience=all+of+them"
        assert asked.headers["Authorization"] == "Basic bWU6aHVzaC1odXNo"
        assert asked.headers["X-Mine"] is None
        assert [page.headers["Authorization"] for page in pages] == ["Bearer t1"] * 3
        assert [page.headers["X-Mine"] for page in pages] == ["1"] * 3

    def test_the_client_may_be_told_in_the_body(self, web: WebServer) -> None:
        assert ids_of(Tokens(web).extractor(send_in="body")) == IDS
        assert web.requests[0].body == b"grant_type=client_credentials&client_id=me&client_secret=hush-hush"
        assert web.requests[0].headers["Authorization"] is None

    def test_a_token_is_renewed_before_it_expires(self, web: WebServer) -> None:
        tokens = Tokens(web, expires_in=0)
        assert ids_of(tokens.extractor()) == IDS
        assert tokens.given == 3

    def test_a_refused_token_is_renewed_once(self, web: WebServer) -> None:
        tokens = Tokens(web, expires_in="3600")
        tokens.good = lambda token: token == ("t1" if len(web.requests) < 4 else "t2")
        assert ids_of(tokens.extractor()) == IDS
        assert tokens.given == 2
        tokens.good = lambda token: False
        with pytest.raises(AccessError, match=r"/items: the server answered 401 Unauthorized"):
            ids_of(tokens.extractor())
        assert tokens.given == 4

    @pytest.mark.parametrize("status", [400, 401, 403])
    def test_a_refused_client(self, web: WebServer, status: int) -> None:
        extractor = Tokens(web).extractor()
        web.once("/token", status=status)
        with pytest.raises(AccessError, match=r"/token refuses the client; check client_id, client_secret, scope"):
            ids_of(extractor)
        assert len(web.requests) == 1

    def test_a_server_of_tokens_that_is_down(self, web: WebServer) -> None:
        extractor = Tokens(web).extractor()
        web.once("/token", status=503)
        web.once("/token", cut_after=5)
        assert ids_of(extractor) == IDS
        web.serve("/token", status=503)
        with pytest.raises(SourceError, match=r"no token from .*/token: the server answered 503"):
            ids_of(extractor.model_copy(update={"attempts": 2}))

    @pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"access_token": 5}', b'{"access_token": "a\\nb: c"}'])
    def test_an_answer_without_a_token(self, web: WebServer, body: bytes) -> None:
        extractor = Tokens(web).extractor()
        web.serve("/token", body)
        with pytest.raises(SourceError, match="no answer with an access_token; check token_url"):
            ids_of(extractor)

    def test_credentials_follow_no_redirect(self, web: WebServer) -> None:
        extractor = Tokens(web).extractor()
        web.redirect("/token", web.url("/elsewhere"), status=307)
        with pytest.raises(SourceError, match="redirects a POST: refused"):
            ids_of(extractor)
        assert len(web.requests) == 1


def test_a_refusal_is_not_asked_again(web: WebServer) -> None:
    with pytest.raises(AccessError, match="answered 401"):
        frame_of(make(web.serve("/items", status=401), auth={"type": "bearer", "token": "t"}))
    assert len(web.requests) == 1


def test_credentials_do_not_go_where_a_redirect_leads(web: WebServer) -> None:
    with WebServer() as other:
        other.script("/items", all_at_once)
        url = web.redirect("/items", other.url("/items"))
        options = {"auth": {"type": "bearer", "token": "t"}, "headers": {"X-Key": "k"}}
        assert ids_of(make(url, **options)) == IDS
        assert (other.requests[0].headers["Authorization"], other.requests[0].headers["X-Key"]) == (None, None)
        assert web.requests[0].headers["Authorization"] == "Bearer t"


# -- secrets --------------------------------------------------------------------------------------------------------


SECRETIVE: list[dict[str, Any]] = [
    {"auth": {"type": "bearer", "token": "hush-hush"}},
    {"auth": {"type": "basic", "username": "ann", "password": "hush-hush"}},
    {"auth": {"type": "api_key", "key": "hush-hush", "param": "k"}},
    {"auth": {"type": "api_key", "key": "hush-hush", "header": "X-K"}},
    {"headers": {"X-K": "hush-hush"}},
    {"params": {"k": "hush-hush"}},
    {"method": "POST", "body": {"k": "hush-hush"}},
]


@pytest.mark.parametrize("options", SECRETIVE)
@pytest.mark.parametrize(
    "mood",
    [
        {},
        {"status": 401},
        {"status": 500},
        {"status": 404},
        {"cut_after": 3},
        {"body": b"<p>hush-hush"},
        {"body": b'{"error": "hush-hush"}'},
        {"status": 302, "headers": {"Location": "ftp://x/?k=hush-hush"}},
    ],
)
def test_no_secret_is_shown(
    web: WebServer, options: dict[str, Any], mood: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="etl")
    web.script("/items", lambda request: json_answer(ROWS, **mood) if "body" not in mood else json_answer(mood["body"]))
    extractor = make(web.url("/items?signature=hush-hush"), attempts=2, **options)
    said = [repr(extractor), str(extractor), repr(extractor.inspect())]
    account = Account("test")
    for act in (extractor.check, lambda: frame_of(extractor, account)):
        try:
            said.append(str(act()))
        except EtlError as error:
            said.append(str(error))
    assert "hush" not in " ".join([*said, caplog.text, json.dumps(account.as_dict())])
    sent = web.requests[0]
    assert "hush" in f"{sent.path} {sent.headers} {sent.body!r}" or "aHVzaC" in str(sent.headers)
    assert pickle.loads(pickle.dumps(extractor)) == extractor


def test_no_secret_of_oauth2_is_shown(web: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="etl")
    tokens = Tokens(web)
    extractor = tokens.extractor(parameters={"audience": "hush-hush"})
    web.serve("/token", b'{"access_token": "hush-hush"}')
    tokens.good = lambda token: False
    with pytest.raises(AccessError) as failure:
        frame_of(extractor)
    assert "hush" not in f"{failure.value} {extractor!r} {caplog.text}"
    assert "asking for a new one" in caplog.text
