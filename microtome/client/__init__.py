"""The Python client: images in, NumPy arrays out, over HTTP or gRPC.

The interface is `microtome.Client`, `microtome.AsyncClient` and the errors in `microtome.client.errors`;
`microtome.client.grpc_stream` is for programs with a gRPC stub of their own.

A client (`client`, `async_client`) encodes images (`images`), groups them into requests, makes a call of each
(`transports`; `http`, `grpc`), sends it until it succeeds or may not be retried (`retries`), and returns `results` in
order.

Importing this package is cheap: NumPy, httpx and gRPC are imported when a client is made.
"""
