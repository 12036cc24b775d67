"""Behind a proxy's path prefix, and called from a page of another origin in a real browser."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.auth import Keyring, read_keys
from service.http.middleware import ROUTES
from tests.browser import page_of
from tests.pictures import png
from tests.unit.service.http.conftest import Gateway, gateway_with
from tests.unit.service.http.test_disconnects import listening

PREFIX = "/api/img"
TOLD = {"X-Forwarded-Prefix": PREFIX}
KEYS = ["search sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"]
"""Of the key `secret`."""


class Proxy:
    """Shows an application below a prefix, which it takes off paths; a reverse proxy without the network."""

    def __init__(self, app: ASGIApp, headers: dict[str, str]) -> None:
        self._app = app
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; what is not below the prefix is not found."""
        assert scope["path"].startswith(PREFIX), scope["path"]
        passed = {**scope, "path": scope["path"].removeprefix(PREFIX), "headers": [*scope["headers"], *self._headers]}
        await self._app(passed, receive, send)


async def test_the_documentation_works_below_a_prefix(gateway: Gateway) -> None:
    """In a browser: the page finds its scripts and the document, and shows the routes and where they are."""
    assert [] == re.findall(r"""["'](/[^"']*)["']""", (await gateway.client.get("/docs")).text)
    async with listening(Proxy(gateway.app, TOLD)) as port:
        page = await page_of(f"http://127.0.0.1:{port}{PREFIX}/docs")
    assert 'id="operations-embeddings' in page
    assert f'<option value="{PREFIX}">' in page


async def test_addresses_have_the_prefix_that_the_caller_sees(gateway: Gateway) -> None:
    """What X-Forwarded-Prefix says, of several proxies too; what is no path is as if it had not been sent."""
    for sent, seen in {
        PREFIX: PREFIX,
        f"{PREFIX}/": PREFIX,
        "/api, /img": PREFIX,
        "": "",
        "/": "",
        "api": "",
        "//evil.example": "",
        "/a/../b": "",
        "/<script>": "",
        "/a" * 101: "",
    }.items():
        document = await gateway.client.get("/openapi.json", headers={"X-Forwarded-Prefix": sent})
        assert ([{"url": seen}] if seen else None) == document.json().get("servers"), sent
        root = await gateway.client.get("/", headers={"X-Forwarded-Prefix": sent})
        assert (f"POST {seen}/embed", f"{seen}/docs") == (root.json()["embed"], root.json()["docs"])
        assert ["X-Forwarded-Prefix"] * 2 == [document.headers["vary"], root.headers["vary"]]
    assert "servers" not in (await gateway.client.get("/openapi.json")).json()


async def test_a_prefix_is_set_and_proxies_may_leave_it(decoders: ThreadPoolExecutor) -> None:
    """Both kinds of proxy reach every route, once; the header says nothing then."""
    async with gateway_with(decoders, path_prefix=PREFIX) as gateway:
        for before in ("", PREFIX):
            assert 200 == (await gateway.client.post(f"{before}/embed", content=png())).status_code
            assert 200 == (await gateway.client.get(f"{before}/docs-assets/swagger-ui.css")).status_code
            root = (await gateway.client.get(f"{before}/", headers={"X-Forwarded-Prefix": "/other"})).json()
            assert f"{PREFIX}/models" == root["models"]
            assert [{"url": PREFIX}] == (await gateway.client.get(f"{before}/openapi.json")).json()["servers"]
        assert 200 == (await gateway.client.get(PREFIX)).status_code
        for path in (f"{PREFIX}{PREFIX}/models", f"{PREFIX}es/models", "/other/models"):
            assert 404 == (await gateway.client.get(path)).status_code, path


@pytest.mark.parametrize("prefix", ["", PREFIX])
async def test_a_stated_prefix_opens_no_door(decoders: ThreadPoolExecutor, prefix: str) -> None:
    """Neither the header nor a path made of public ones reaches what needs a key."""
    async with gateway_with(decoders, keyring=Keyring(read_keys(KEYS)), path_prefix=prefix) as gateway:
        for path in ("/models", "/docs-assets/../models", "/docs-assets/models", "/livez/models"):
            for told in ("/docs-assets", "/livez", "/models", "/"):
                for before in {"", prefix}:
                    answer = await gateway.client.get(before + path, headers={"X-Forwarded-Prefix": told})
                    assert answer.status_code in {401, 404}, (path, told)


async def test_no_prefix_can_be_taken_for_a_route(gateway: Gateway) -> None:
    """ROUTES has the first segment of every route, documented or not."""
    served: Any = gateway.app
    while not hasattr(served, "routes"):  # the endpoints before FastAPI
        served = served._app
    routes = [getattr(route, "path", "/") for route in served.routes]
    documented = (await gateway.client.get("/openapi.json")).json()["paths"]
    assert ROUTES == {"health", "healthz"} | {path.split("/")[1] for path in (*routes, *documented)} - {""}


ASK = """<html><body><pre id="answers"></pre><script>
const ask = async url => {
  try {
    const answer = await fetch(url + "/embed", {
      method: "POST", body: Uint8Array.from(%s), headers: {"X-API-Key": "secret", "X-Request-ID": "page"}});
    const id = answer.headers.get("x-request-id"), model = answer.headers.get("x-model");
    return [answer.status, (await answer.json()).embeddings.length, model, id];
  } catch (error) { return error.name; }
};
Promise.all(%s.map(ask)).then(all => { document.getElementById("answers").textContent = JSON.stringify(all); });
</script></body></html>"""


async def test_a_page_of_an_allowed_origin_can_embed_and_another_cannot(decoders: ThreadPoolExecutor) -> None:
    """In a browser, with a key and so a preflight: it reads status, headers and vectors; another gets nothing."""
    keyring, page = Keyring(read_keys(KEYS)), [""]

    async def site(scope: Scope, receive: Receive, send: Send) -> None:
        await HTMLResponse(page[0])(scope, receive, send)

    async with listening(site) as own:
        allowed, other = f"http://127.0.0.1:{own}", "https://other.example"
        async with (
            gateway_with(decoders, keyring=keyring, cors_origins=(allowed,)) as first,
            gateway_with(decoders, keyring=keyring, cors_origins=(other,)) as second,
            gateway_with(decoders, keyring=keyring) as third,
            listening(first.app) as one,
            listening(second.app) as two,
            listening(third.app) as three,
        ):
            page[0] = ASK % (list(png()), json.dumps([f"http://127.0.0.1:{port}" for port in (one, two, three)]))
            shown = await page_of(f"http://127.0.0.1:{own}/")
    answers = re.search(r'<pre id="answers">(.*?)</pre>', shown)
    assert answers
    assert [[200, 1, "toy", "page"], "TypeError", "TypeError"] == json.loads(answers[1])


ORIGIN = "https://shop.example.com"
PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}


async def test_every_answer_to_an_allowed_origin_says_so(decoders: ThreadPoolExecutor) -> None:
    """Errors too, since a page has to read them; a preflight needs no key. Credentials are never asked for."""
    keyring = Keyring(read_keys(KEYS))
    async with gateway_with(decoders, keyring=keyring, cors_origins=(ORIGIN,)) as gateway:
        ahead = await gateway.client.options("/embed", headers=PREFLIGHT)
        assert (200, ORIGIN, "x-api-key") == (
            ahead.status_code,
            ahead.headers["access-control-allow-origin"],
            ahead.headers["access-control-allow-headers"],
        )
        for method, path, key, status in (
            ("POST", "/embed", "wrong", 401),
            ("POST", "/embed", "secret", 200),
            ("POST", "/embed?encoding=none", "secret", 400),
            ("GET", "/models", "secret", 200),
            ("GET", "/nowhere", "secret", 404),
        ):
            answer = await gateway.client.request(
                method, path, content=png() if method == "POST" else b"", headers={"Origin": ORIGIN, "X-API-Key": key}
            )
            assert (status, ORIGIN) == (answer.status_code, answer.headers["access-control-allow-origin"]), path
            assert "x-model" in answer.headers["access-control-expose-headers"].lower()
            assert "Origin" in answer.headers["vary"]
            assert "access-control-allow-credentials" not in answer.headers
        other = await gateway.client.get("/livez", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_nothing_is_said_of_origins_unless_it_is_set(gateway: Gateway) -> None:
    """The default: no header, and OPTIONS is no method of any route."""
    answer = await gateway.client.post("/embed", content=png(), headers={"Origin": ORIGIN})
    assert [] == [name for name in answer.headers if name.startswith("access-control")]
    assert 405 == (await gateway.client.options("/embed", headers=PREFLIGHT)).status_code


async def test_a_kept_answer_is_not_changed_by_who_asks(decoders: ThreadPoolExecutor) -> None:
    """The response cache has no origin in it: the next caller gets the same headers as the first."""
    async with gateway_with(decoders, cors_origins=("*",)) as gateway:
        answers = [
            await gateway.client.post("/embed", content=png(), headers=headers)
            for headers in ({}, {}, {"Origin": ORIGIN}, {}, {"Origin": ORIGIN})
        ]
        allowed = [answer.headers.get_list("access-control-allow-origin") for answer in answers]
        assert [[], [], ["*"], [], ["*"]] == allowed
