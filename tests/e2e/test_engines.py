"""Which engine computes is the model server's business alone: the gateway gets the same vectors."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from tests.e2e.answers import embed, vector
from tests.e2e.photos import example
from tests.e2e.processes import Gateway, ModelServer

TOLERANCE = 1e-4


class TensorFlowServer(ModelServer):
    """The embedded model server with its other engine."""

    def words(self) -> list[str]:
        """As ever, and by name."""
        return [*super().words(), "--engine=tensorflow"]


def test_a_photo_has_the_same_vectors_by_either_engine(lite0_models: Path) -> None:
    """Every output is within 1e-4, nothing comes from a cache; /models tells which engine it was, and why."""
    answers, engines = [], []
    with tempfile.TemporaryDirectory(prefix="microtome-e2e-", ignore_cleanup_errors=True) as path:
        servers = TensorFlowServer(Path(path), lite0_models), ModelServer(Path(path), lite0_models)
        gateway = Gateway(Path(path), servers[0].address, cache_bytes=0)
        try:
            for server in servers:
                server.start()
                gateway.heal()
                with gateway.client() as client:
                    answers.append(embed(client, example("cat"), output=["early", "middle", "top"]))
                    engines += client.get("/models/lite0").json()["engines"]
                server.terminate()
        finally:
            for process in (gateway, *servers):
                process.destroy()

    assert ["tensorflow", "openvino"] == [said.partition(":")[0] for said in engines]
    theirs, ours = answers
    assert theirs["fingerprint"] == ours["fingerprint"]
    for index in range(3):
        expected, found = vector(theirs, index), vector(ours, index)
        assert np.linalg.norm(expected - found) <= TOLERANCE * np.linalg.norm(expected)
