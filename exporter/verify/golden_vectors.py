"""Golden vectors: recorded from Keras, and compared with what a written version answers, as every server does later."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from exporter.head.projection import Fitted
from exporter.head.slicing import Slice
from exporter.savedmodel.saved_model import Loaded
from exporter.savedmodel.versions import manifest_of
from exporter.verify.checks import Finding, expect
from exporter.verify.keras_reference import reference
from exporter.verify.sample_images import golden_inputs
from microtome.golden import INPUTS, SEED, GoldenCheck, record
from microtome.manifest import Golden

Array = np.ndarray[Any, Any]


def recorded(slice_: Slice, projections: Mapping[str, Fitted]) -> Golden:
    """Return the golden vectors of a slice in float32, for its manifest."""
    return record(SEED, golden_reference(slice_, projections))


def golden_reference(
    slice_: Slice, projections: Mapping[str, Fitted], golden: Golden | None = None
) -> dict[str, Array]:
    """Return what Keras answers to the golden inputs, [inputs, ...] by output.

    Args:
        slice_: In float32.
        projections: By output name.
        golden: Whose inputs; None for those of a new manifest.
    """
    seed, inputs = (golden.seed, golden.inputs) if golden else (SEED, INPUTS)
    return reference(slice_, golden_inputs(slice_.input, seed, inputs), projections)


def golden_deviations(version: Loaded) -> tuple[GoldenCheck | None, dict[str, float]]:
    """Run the golden check of a version; None and nothing for a manifest of version 1."""
    check = GoldenCheck.read(manifest_of(version.directory))
    if check is None:
        return None, {}
    return check, check.deviations([version.run(inputs) for inputs in check.requests])


def golden_findings(check: GoldenCheck, deviations: Mapping[str, float]) -> Iterator[Finding]:
    """Compare each output's deviation with its tolerance."""
    for name, deviation in deviations.items():
        allowed = check.tolerances[name]
        yield expect(
            f"{name} equals its golden vectors",
            deviation <= allowed,
            f"relative L2 {deviation:.1e} of {allowed:g}",
            f"Expected the output {name} to equal its golden vectors within its tolerance of {allowed:g}. Received: "
            f"{deviation:.2g}. Where rounding explains it, say tolerance: {float(f'{3 * deviation:.0e}'):g} for the "
            "output in the recipe; the fingerprint is another one then.",
        )
