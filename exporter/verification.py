"""Prove that what was written computes what Keras computes, before anybody can see it.

The SavedModel is loaded afresh into the runtime that TensorFlow Serving uses, and is held against the Keras slice on
the same pixels; see `exporter.reference` for what the slice's outputs ought to be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporter.contract_checks import check_graph, check_manifest, check_signatures
from exporter.exactness import Exactly
from exporter.findings import Finding, expect
from exporter.loaded import loaded
from exporter.memory import give_back
from exporter.projection import Fitted
from exporter.reference import reference
from exporter.slicing import Slice
from exporter.trial import cosines, relative_errors, with_images
from exporter.warmup_check import check_warmup

EQUALITY = 1e-4
"""Largest relative difference from Keras, in float32."""
BATCH_INVARIANCE = 1e-5
"""Largest relative difference that batch-mates may make, in float32."""
ROUNDING = 4.0
"""How many times as far from float64 as Keras a vector may be, where rounding alone exceeds these."""
_COSINE_SLACK = 1e-3

Array = np.ndarray[Any, Any]


def verify(
    directory: Path,
    slice_: Slice,
    projections: Mapping[str, Fitted] | None = None,
    *,
    worst_cosines: Mapping[str, float] | None = None,
    images: Sequence[Path] = (),
) -> list[Finding]:
    """Verify a written SavedModel against the slice that it was made from.

    Args:
        directory: The version.
        slice_: Computes in float32, whatever the version does.
        projections: By output name.
        worst_cosines: For a version in lower precision, what its manifest tells of each output; such a version is held
            to what it says about itself.
        images: Image files to try beside the trial pixels.
    """
    input_ = slice_.pixels
    with loaded(directory) as version:
        findings = [check_graph(version), check_signatures(version, slice_), check_manifest(version, slice_)]
        give_back()  # of the passes over the graph that even the manifest's signature sets off
        if not all(finding.ok for finding in findings):
            return findings  # numbers of another model's outputs would only confuse
        findings.append(check_warmup(version))
        give_back()
        pixels = with_images(input_, images)
        together = version.run(pixels)
        apart = [version.run(pixels[index : index + 1]) for index in range(len(pixels))]
    give_back()
    alone = {name: np.concatenate([vectors[name] for vectors in apart]) for name in together}
    expected = reference(slice_, pixels, projections)
    told, exactly = worst_cosines or {}, Exactly(slice_, pixels, projections or {})
    findings += _compare(together, expected, EQUALITY, told, "Keras on the same pixels", exactly)
    findings += _compare(together, alone, BATCH_INVARIANCE, told, "the same image alone in its batch", exactly)
    return findings


def _compare(  # noqa: PLR0913, PLR0917, what is compared, how closely, and who is asked when it is not close
    actual: Mapping[str, Array],
    expected: Mapping[str, Array],
    allowed: float,
    told: Mapping[str, float],
    against: str,
    exactly: Exactly,
) -> Iterator[Finding]:
    for name, vectors in expected.items():
        check = f"{name} equals {against}"
        cosine = float(cosines(actual[name], vectors).min())
        if name not in told:
            errors = relative_errors(actual[name], vectors)
            far = np.flatnonzero(~(errors <= allowed))  # so that NaN is far too
            rounding = _rounding(actual[name][far], vectors[far], exactly.outputs(far), name) if len(far) else ""
            yield expect(
                check,
                rounding is not None,
                f"relative {errors.max():.1e} of {allowed:g}{rounding}, cosine {cosine:.7f}",
                f"Expected the output {name} to equal {against} within {allowed:g} relative, or to be at most "
                f"{ROUNDING:g} times as far from float64. Received: {errors.max():.2g}.",
            )
        else:
            least = 1 - 2 * (1 - told[name]) - _COSINE_SLACK  # another processor rounds otherwise
            yield expect(
                check,
                cosine >= least,
                f"cosine {cosine:.6f}; the manifest tells {told[name]:.6f}",
                f"Expected the output {name} to equal {against} with a cosine of at least {least:.4f}, by what its "
                f"manifest tells. Received: {cosine:.6f}.",
            )


def _rounding(actual: Array, expected: Array, exact: Mapping[str, Array] | None, name: str) -> str | None:
    """Say how far both are from float64, if that is why they differ; None when rounding does not explain it."""
    if exact is None:
        return None
    ours, theirs = relative_errors(actual, exact[name]), relative_errors(expected, exact[name])
    if not (ours <= ROUNDING * theirs).all():
        return None
    return f" (from float64 {ours.max():.1e}, that one {theirs.max():.1e})"
