"""The Python client: images in, NumPy arrays out, over HTTP or gRPC.

`microtome.Client` and `microtome.AsyncClient` are the whole interface, beside the errors in `microtome.client.errors`;
`microtome.client.grpc_stream` is for those who have a stub of their own.
How a call goes: pictures become bytes (`pictures`), requests of a few images each (`grouping`), which a transport sends
(`http_*`, `grpc_*`) as often as it takes (`retrying`); results come back in order (`ordered`) as `outcomes`.

Importing this costs next to nothing: NumPy, httpx and gRPC are imported when a client is made.
"""
