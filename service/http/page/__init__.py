"""The page at `/`: drop a photo, and see what every layer makes of it. Three files of ours, which load nothing else.

The page calls public endpoints only, as any other client does. It needs no API key to be shown.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import Response

from service.http.middleware import PAGE_FILES, prefix_of
from service.http.negotiation import asks_for_html

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        # Photos are shown from memory.
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Text from files and answers never becomes markup.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""What the page may do: load its own two files, and call the gateway."""

_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept, X-Forwarded-Prefix",
}

_TYPES = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}


class Page:
    """The page's files, read once."""

    def __init__(self) -> None:
        here = Path(__file__).parent
        self._html = (here / "index.html").read_text(encoding="utf-8")
        self._files = {name: (here / name).read_bytes() for name in _TYPES}

    def install(self, app: FastAPI) -> None:
        """Serve the style and the script."""

        async def file(request: Request) -> Response:
            name = request.scope["path"].rpartition("/")[2]
            return _answer(request, self._files[name], {"Content-Type": _TYPES[name]})

        for path in PAGE_FILES:
            app.add_route(path, file, include_in_schema=False)

    def html(self, request: Request) -> Response | None:
        """Return the page if it is asked for; browsers name text/html, and other clients do not."""
        if not asks_for_html(request.headers.get("Accept", "")):
            return None
        # Below a prefix the page's address may end without a slash, so that relative addresses would lead elsewhere.
        prefix = prefix_of(request.scope)
        html = self._html.replace('="./', f'="{prefix or "."}/')
        return _answer(request, html.encode(), {"Content-Type": "text/html; charset=utf-8", **_HEADERS})


def _answer(request: Request, body: bytes, headers: Mapping[str, str]) -> Response:
    """Answer with a file, or with 304 when the caller has it."""
    tag = f'"{sha256(body).hexdigest()[:32]}"'
    headers = {**headers, "ETag": tag, "Cache-Control": "no-cache"}
    known = {part.strip().removeprefix("W/") for part in request.headers.get("If-None-Match", "").split(",")}
    return Response(status_code=304, headers=headers) if {tag, "*"} & known else Response(body, headers=headers)
