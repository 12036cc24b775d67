"""The Python client: images in, NumPy arrays out, over HTTP or gRPC.

`microtome.Client` and `microtome.AsyncClient` are the whole interface, beside the errors in `microtome.client.errors`.
How a call goes: pictures become bytes (`pictures`), requests of a few images each (`grouping`), which a transport sends
(`http_*`, `grpc_*`) as often as it takes (`retrying`); results come back in order (`ordered`) as `outcomes`.

Importing this costs next to nothing: NumPy, httpx and gRPC are imported when a client is made.
"""
