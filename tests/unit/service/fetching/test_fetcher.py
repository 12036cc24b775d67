"""The fetcher over real connections: what it gets, what it refuses, and whom it never asks."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from microtome.errors import ImageTooLarge, UrlNotAllowed, UrlNotFetched
from service.fetching.fetcher import UrlFetcher, is_public
from tests.certificates import make_certificates

PHOTO = b"\xff\xd8 a photo"


def ok(body: bytes, *headers: str) -> bytes:
    """Write an answer with a body."""
    head = "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers])
    return head.encode() + b"\r\n\r\n" + body


def moved(location: str) -> bytes:
    """Write a redirect."""
    return f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


@dataclass
class Server:
    """Answers paths with bytes as they stand, and keeps the heads of what it was asked."""

    port: int = 0
    answers: dict[str, bytes] = field(default_factory=dict)
    asked: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection; the path /silent never is."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        path = head.split()[1].decode()
        if path == "/silent":
            await reader.read()
        writer.write(self.answers.get(path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server on this machine."""
    found = Server()
    listener = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield found


LOOKED_UP: dict[str, Sequence[str]] = {
    "photos.test": ["127.0.0.1"],
    "cdn.photos.test": ["127.0.0.1"],
    "inward.test": ["127.0.0.2"],
    "both.test": ["127.0.0.1", "127.0.0.2"],
    "half-dead.test": ["127.0.0.3", "127.0.0.4", "127.0.0.1"],
    "dead.test": ["127.0.0.3", "127.0.0.4"],
}


class Fetching(UrlFetcher):
    """A fetcher for which 127.0.0.2 is inward and other addresses public; the server listens at 127.0.0.1 alone."""

    def __init__(
        self, server: Server, hosts: Sequence[str] = ("photos.test", "*.photos.test"), seconds: float = 5
    ) -> None:
        self.looked_up: list[str] = []

        async def resolve(host: str, port: int) -> Sequence[str]:
            self.looked_up.append(host)
            if host not in LOOKED_UP:
                raise OSError("no such host")
            return LOOKED_UP[host]

        super().__init__(
            hosts,
            seconds=seconds,
            resolve=resolve,
            admits=lambda address: address != "127.0.0.2",
            ports=frozenset({server.port}),
        )


async def get(server: Server, path: str, host: str = "photos.test", *hosts: str, seconds: float = 5) -> bytes:
    """Fetch from the server under a name."""
    fetcher = Fetching(server, ("photos.test", "*.photos.test", *hosts), seconds)
    return await fetcher.fetch(f"http://{host}:{server.port}{path}", max_bytes=1000)


async def test_what_lies_there_is_fetched(server: Server) -> None:
    """The body comes whole, with a length or in chunks; the server is asked under its name."""
    server.answers["/a?b=c"] = ok(PHOTO)
    assert PHOTO == await get(server, "/a?b=c")
    assert f"host: photos.test:{server.port}".encode() in server.asked[0].lower()
    server.answers["/chunked"] = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    assert b"abcde" == await get(server, "/chunked", "cdn.photos.test")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "ftp://photos.test/a",
            "file:///etc/passwd",
            "photos.test/a",
            "",
            "http://",
            "http:///a",
            "gopher://photos.test",
        ),
        *("http://user@photos.test/", "http://photos.test@elsewhere.test/", "http://elsewhere.test/"),
        *("http://photos.test.elsewhere.test/", "http://xphotos.test/", "http://127.0.0.1/", "http://[::1]/"),
        *("http://photos.test:22/", "http://photos.test:99999/", "http://photos.test:x/", "http://photos.test\\@a/"),
        *(
            "http://photos.test /",
            "http://photos.test/\r\nX: y",
            "http://phötos.test/",
            "http://[",
            "http://a" + "a" * 3000,
        ),
    ],
)
async def test_other_addresses_are_refused_before_anybody_is_asked(server: Server, url: str) -> None:
    """Schemes, hosts, ports and spellings that are not allowed: no name is looked up, no connection made."""
    fetcher = Fetching(server)
    with pytest.raises(UrlNotAllowed):
        await fetcher.fetch(url, max_bytes=1000)
    assert ([], []) == (fetcher.looked_up, server.asked)


async def test_every_hop_is_checked(server: Server) -> None:
    """A redirect to a host that is not allowed, to an inward address, or to another scheme leads nowhere."""
    fetcher = Fetching(server, ("photos.test", "*.photos.test", "inward.test"))
    there = f"http://photos.test:{server.port}"
    for number, location in enumerate(
        (
            f"http://elsewhere.test:{server.port}/",
            f"http://inward.test:{server.port}/",
            "file:///etc/passwd",
            "//127.0.0.2/",
        )
    ):
        server.answers[f"/{number}"] = moved(location)
        with pytest.raises(UrlNotAllowed):
            await fetcher.fetch(f"{there}/{number}", max_bytes=1000)
    assert 4 == len(server.asked)


async def test_redirects_are_followed_and_counted(server: Server) -> None:
    """Three of them lead on, relative ones too; each hop's name is looked up once; four are too many."""
    server.answers |= {
        "/0": moved("/1"),
        "/1": moved(f"http://cdn.photos.test:{server.port}/2"),
        "/2": moved("3"),
        "/3": ok(PHOTO),
        "/loop": moved("/loop"),
    }
    fetcher = Fetching(server)
    assert PHOTO == await fetcher.fetch(f"http://photos.test:{server.port}/0", max_bytes=1000)
    assert ["photos.test", "photos.test", "cdn.photos.test", "cdn.photos.test"] == fetcher.looked_up
    with pytest.raises(UrlNotFetched, match="at most 3 redirects"):
        await get(server, "/loop")


@pytest.mark.parametrize("host", ["inward.test", "both.test"])
async def test_a_name_that_points_inward_is_not_asked(server: Server, host: str) -> None:
    """Not even when another of its addresses is public."""
    with pytest.raises(UrlNotAllowed, match="not public"):
        await get(server, "/", host, host)
    assert [] == server.asked


async def test_a_name_is_asked_at_all_its_addresses_in_turn(server: Server) -> None:
    """An address without a listener is passed by; when there is none anywhere the caller is told."""
    server.answers["/"] = ok(PHOTO)
    assert PHOTO == await get(server, "/", "half-dead.test", "half-dead.test")
    with pytest.raises(UrlNotFetched, match="connection failed"):
        await get(server, "/", "dead.test", "dead.test")
    assert 1 == len(server.asked)


async def test_by_default_this_machine_is_not_asked(server: Server) -> None:
    """With the system's own resolver and the real rule, localhost is refused though it is on the list."""
    fetcher = UrlFetcher(["localhost"], seconds=5, ports=frozenset({server.port}))
    with pytest.raises(UrlNotAllowed, match="not public"):
        await fetcher.fetch(f"http://localhost:{server.port}/", max_bytes=1000)
    assert [] == server.asked
    assert not is_public("127.0.0.1")


BROKEN: Mapping[str, tuple[bytes, type[Exception]]] = {
    "large": (ok(b"x" * 1001), ImageTooLarge),
    "endless": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n"
        + b"x" * 255
        + b"\r\nff\r\n"
        + b"x" * 255
        + b"\r\n3ff\r\n"
        + b"x" * 1023,
        ImageTooLarge,
    ),
    "truncated": (ok(PHOTO)[:-3], UrlNotFetched),
    "encoded": (ok(PHOTO, "Content-Encoding: gzip"), UrlNotFetched),
    "garbage": (b"\0\1\2 no HTTP\r\n\r\n", UrlNotFetched),
    "endless head": (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, UrlNotFetched),
    "error": (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", UrlNotFetched),
    "nowhere": (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", UrlNotFetched),
    "nonsense": (moved("http://["), UrlNotFetched),
    "nothing": (b"", UrlNotFetched),
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_bad_answers_are_the_callers_to_know(server: Server, kind: str) -> None:
    """Too large, cut off, encoded, no HTTP at all: an error that says so, never an image."""
    server.answers["/"], error = BROKEN[kind]
    with pytest.raises(error):
        await get(server, "/")


async def test_a_server_that_does_not_answer_costs_the_time_allowed(server: Server) -> None:
    """And no more; a name or a port that is not there is told in our words."""
    with pytest.raises(UrlNotFetched, match=r"within 0\.1 s"):
        await get(server, "/silent", seconds=0.1)
    with pytest.raises(UrlNotFetched, match="not found"):
        await get(server, "/", "absent.photos.test")


async def test_certificates_are_verified_for_the_host_that_was_named(tmp_path: Path) -> None:
    """Over TLS too the checked address is connected to; a certificate of another authority or name fetches nothing."""
    make_certificates(tmp_path)
    server, secured = Server(answers={"/": ok(PHOTO)}), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secured.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=secured) as listener:
        server.port = listener.sockets[0].getsockname()[1]

        async def fetched(host: str, tls: ssl.SSLContext | None) -> bytes:
            async def resolve(name: str, port: int) -> Sequence[str]:
                return ["127.0.0.1"]

            ports = frozenset({server.port})
            fetcher = UrlFetcher([host], seconds=5, resolve=resolve, admits=lambda _: True, ports=ports, tls=tls)
            return await fetcher.fetch(f"https://{host}:{server.port}/", max_bytes=1000)

        trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        assert PHOTO == await fetched("localhost", trusted)
        for host, tls in (("localhost", None), ("photos.test", trusted)):
            with pytest.raises(UrlNotFetched, match="TLS failed"):
                await fetched(host, tls)
