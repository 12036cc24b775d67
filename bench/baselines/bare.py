"""A minimal FastAPI service: read the body, write an answer of the right size. Served like the gateway.

python -m bench.baselines.bare PORT BYTES
"""

import sys

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import Response


def application(answer: bytes) -> FastAPI:
    """Build it."""
    app = FastAPI()

    @app.post("/embed")
    async def embed(request: Request) -> Response:
        await request.body()
        return Response(answer, media_type="application/json")

    @app.get("/readyz")
    async def ready() -> Response:
        return Response(b"ok")

    return app


def main(port: int, size: int) -> None:
    """Serve with the gateway's own uvicorn options."""
    uvicorn.run(
        application(b"0" * size),
        port=port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        server_header=False,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
