"""What most people write: FastAPI and `model.predict`, one image a request. No batching: nothing here offers it."""

import keras
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from pixels import MODEL, PORT, answer, decoder

app = FastAPI()
decode = decoder()
pixels = keras.Input((224, 224, 3), dtype="uint8")
model = keras.Model(pixels, keras.layers.TFSMLayer(MODEL, call_endpoint="serving_default")(pixels))


def embed(body: bytes) -> bytes:
    """Decode, predict, encode; in a thread, as FastAPI's documentation has it for what blocks."""
    (vectors,) = model.predict(decode(body)[None], verbose=0).values()
    return answer(vectors[0])


@app.post("/embed")
async def route(request: Request) -> Response:
    """One image in, one vector out."""
    return Response(await run_in_threadpool(embed, await request.body()), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(app, port=PORT, log_level="warning", access_log=False)
