"""A session of TensorFlow's C API over one SavedModel: what TensorFlow Serving runs models in, too."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelserver.c_api import Output, checked, library
from modelserver.c_tensors import Array, lend, read
from modelserver.errors import InvalidArgument


class Session:
    """One SavedModel, loaded. May be run from several threads at a time.

    Args:
        path: The SavedModel's directory.
        tags: Tags of the graph to load.
        config: A serialised ``tensorflow.ConfigProto``.

    Raises:
        ServingError: It cannot be loaded; TensorFlow's own code and text.
    """

    def __init__(self, path: Path, tags: Sequence[str], config: bytes) -> None:
        lib = library()
        words = (ctypes.c_char_p * len(tags))(*(tag.encode() for tag in tags))
        self._graph = lib.TF_NewGraph()
        try:
            with _options(config) as options, checked() as status:
                self._session = lib.TF_LoadSessionFromSavedModel(
                    options, None, str(path).encode(), words, len(tags), self._graph, None, status
                )
        except BaseException:
            lib.TF_DeleteGraph(self._graph)
            raise

    def run(self, feeds: Sequence[Output], values: Sequence[Array], fetches: Sequence[Output]) -> list[Array]:
        """Compute outputs; releases the interpreter meanwhile.

        Args:
            feeds: Where the values go, see ``find``.
            values: One array per feed, which nobody may write to any more.
            fetches: What to compute.

        Returns:
            One array per fetch.

        Raises:
            ServingError: TensorFlow's own code and text.
        """
        lib = library()
        results = (ctypes.c_void_p * len(fetches))()
        given = (ctypes.c_void_p * len(feeds))()
        try:
            for index, value in enumerate(values):
                given[index] = lend(value)
            with checked() as status:
                lib.TF_SessionRun(
                    self._session, None,
                    (Output * len(feeds))(*feeds), given, len(feeds),
                    (Output * len(fetches))(*fetches), results, len(fetches),
                    None, 0, None, status,
                )  # fmt: skip
            return [read(tensor) for tensor in results if tensor]
        finally:
            for tensor in (*given, *results):
                if tensor:
                    lib.TF_DeleteTensor(tensor)

    def find(self, tensor: str) -> Output:
        """Look a tensor up by its name in the graph, such as ``images:0``.

        Raises:
            InvalidArgument: The graph has none of that name.
        """
        lib = library()
        name, _, index = tensor.partition(":")
        operation = lib.TF_GraphOperationByName(self._graph, name.encode())
        number = int(index) if index.isdigit() else 0
        if not operation or number >= lib.TF_OperationNumOutputs(operation):
            raise InvalidArgument(
                f"Tensor {tensor}, specified in either feed_devices or fetch_devices was not found in the Graph"
            )
        return Output(operation, number)

    def close(self) -> None:
        """Free everything. No run may be under way, and none may follow; a second close does nothing."""
        lib = library()
        session, self._session = self._session, None
        if session:
            for end in (lib.TF_CloseSession, lib.TF_DeleteSession):
                with checked() as status:
                    end(session, status)
            lib.TF_DeleteGraph(self._graph)


@contextmanager
def _options(config: bytes) -> Iterator[int]:
    lib = library()
    options = lib.TF_NewSessionOptions()
    try:
        with checked() as status:
            lib.TF_SetConfig(options, config, len(config), status)
        yield options
    finally:
        lib.TF_DeleteSessionOptions(options)
