"""Prove that a written version computes what Keras computes: before it is published, and later on its own.

The SavedModel is loaded into the runtime of TensorFlow Serving and compared with the Keras slice on the same pixels,
by way of `exporter.verify.keras_reference`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import ImpossibleOption, NoVersion
from exporter.head.projection import Fitted, read_projections
from exporter.head.slicing import Slice, prepare
from exporter.recipe.files import file_digest, image_files
from exporter.recipe.resolved import ModelRecipe
from exporter.runtime.memory import release
from exporter.runtime.terminal import stage
from exporter.savedmodel.fingerprint import Ranges, fingerprint
from exporter.savedmodel.freezing import frozen_graph
from exporter.savedmodel.manifest import Arithmetic, described_classes
from exporter.savedmodel.publication import ASSETS
from exporter.savedmodel.saved_model import loaded
from exporter.savedmodel.versions import manifest_of, recipe_of
from exporter.verify.checks import (
    Finding,
    check_graph,
    check_manifest,
    check_signatures,
    check_tokenizer,
    check_warmup,
    expect,
)
from exporter.verify.golden_vectors import golden_deviations, golden_findings, golden_reference
from exporter.verify.keras_reference import Float64Reference, reference
from exporter.verify.sample_images import cosines, relative_errors, with_images
from microtome.golden import GoldenCheck, sketch_deviations
from microtome.manifest import TokensSpec

EQUALITY = 1e-4
"""Largest relative difference from Keras, in float32."""
BATCH_INVARIANCE = 1e-5
"""Largest relative difference that batch-mates may make, in float32."""
ROUNDING = 4.0
"""Largest ratio of the distances from float64, ours to Keras', where rounding alone exceeds the bounds above."""
_COSINE_SLACK = 1e-3
_MOST_IMAGES = 64

Array = np.ndarray[Any, Any]


def verify(
    directory: Path,
    slice_: Slice,
    projections: Mapping[str, Fitted] | None = None,
    *,
    worst_cosines: Mapping[str, float] | None = None,
    images: Sequence[Path] = (),
) -> list[Finding]:
    """Verify a written SavedModel by the slice that it was made from.

    Args:
        directory: The version.
        slice_: In float32, also for a version in lower precision.
        projections: By output name.
        worst_cosines: For a version in lower precision, the worst cosine of each output with float32 by its
            manifest, which its vectors must reach.
        images: Image files to compare on, besides the sample images.
    """
    with loaded(directory) as version:
        findings = [check_graph(version), check_signatures(version, slice_), check_manifest(version, slice_)]
        release()  # memory of graph passes, which also the manifest's signature runs
        if not all(finding.ok for finding in findings):
            return findings  # the outputs are of another model
        findings.append(check_warmup(version))
        of_text = isinstance(slice_.input, TokensSpec)
        findings += [check_tokenizer(version, slice_.input)] if isinstance(slice_.input, TokensSpec) else []
        release()
        inputs = with_images(slice_.input, images)
        golden, deviations = golden_deviations(version)
        together = version.run(inputs)
        apart = [version.run(inputs[index : index + 1]) for index in range(len(inputs))]
    release()
    alone = {name: np.concatenate([vectors[name] for vectors in apart]) for name in together}
    expected = reference(slice_, inputs, projections)
    worst, exact = worst_cosines or {}, Float64Reference(slice_, inputs, projections or {})
    one, same = ("text", "token ids") if of_text else ("image", "pixels")
    findings += _compare(together, expected, EQUALITY, worst, f"Keras on the same {same}", exact)
    findings += _compare(together, alone, BATCH_INVARIANCE, worst, f"the same {one} alone in its batch", exact)
    if golden is not None:
        findings += golden_findings(golden, deviations)
    return findings


def _compare(  # noqa: PLR0913, PLR0917, both sides, the bounds, and the arbiter
    actual: Mapping[str, Array],
    expected: Mapping[str, Array],
    allowed: float,
    worst: Mapping[str, float],
    against: str,
    exact: Float64Reference,
) -> Iterator[Finding]:
    for name, vectors in expected.items():
        check = f"{name} equals {against}"
        cosine = float(cosines(actual[name], vectors).min())
        if name not in worst:
            errors = relative_errors(actual[name], vectors)
            far = np.flatnonzero(~(errors <= allowed))  # NaN is far too
            rounding = _rounding(actual[name][far], vectors[far], exact.outputs(far), name) if len(far) else ""
            yield expect(
                check,
                rounding is not None,
                f"relative {errors.max():.1e} of {allowed:g}{rounding}, cosine {cosine:.7f}",
                f"Expected the output {name} to equal {against} within {allowed:g} relative, or to be at most "
                f"{ROUNDING:g} times as far from float64. Received: {errors.max():.2g}.",
            )
        else:
            least = 1 - 2 * (1 - worst[name]) - _COSINE_SLACK  # other processors round differently
            yield expect(
                check,
                cosine >= least,
                f"cosine {cosine:.6f}; the manifest says {worst[name]:.6f}",
                f"Expected the output {name} to equal {against} with a cosine of at least {least:.4f}, by its "
                f"manifest. Received: {cosine:.6f}.",
            )


def _rounding(actual: Array, expected: Array, exact: Mapping[str, Array] | None, name: str) -> str | None:
    """Return how far both are from float64 if rounding explains their difference, else None."""
    if exact is None:
        return None
    ours, theirs = relative_errors(actual, exact[name]), relative_errors(expected, exact[name])
    if not (ours <= ROUNDING * theirs).all():
        return None
    return f" (from float64 {ours.max():.1e}, that one {theirs.max():.1e})"


def verify_again(directory: Path, images: Path | None, sources: Path) -> list[Finding]:
    """Build a version's model again from its recipe and compare the two.

    Args:
        directory: The version.
        images: A folder of real images to compare on; None for the sample images alone.
        sources: The folder of the files that its recipe names.

    Raises:
        NoVersion: The version is damaged.
        ImpossibleOption: There are no images in the folder.
    """
    recipe = recipe_of(directory, sources)
    if images is not None and recipe.tower == "text":
        raise ImpossibleOption(f"Expected no --images for {recipe.name}, which takes text. Received: {images}.")
    files = image_files(images, _MOST_IMAGES) if images is not None else []
    if images is not None and not files:
        raise ImpossibleOption(f"Expected a folder with images. Received: {images}, which has none.")
    changed = [path for path, before in recipe.files if not Path(path).is_file() or file_digest(Path(path)) != before]
    if changed:
        said = "Expected the files that this version was made from. Received: changed or gone: "
        said += f"{', '.join(changed)}. Give the recipe's folder as --sources."
        return [Finding("its sources are there", False, said)]
    try:
        projections = read_projections(directory / ASSETS)
    except (OSError, ValueError, KeyError) as error:
        raise NoVersion(f"Expected the projections of {directory}. Received: a damaged file: {error}.") from error
    precision = manifest_of(directory).get("precision") or {}
    worst, sample = precision.get("worst_cosine") or {}, precision.get("sample_cosine") or {}
    worst = {name: min(cosine, sample.get(name, cosine)) for name, cosine in worst.items()}
    slice_ = prepare(recipe)
    with stage(f"{recipe.name}: verifying against Keras"):
        findings = verify(directory, slice_, projections, worst_cosines=worst, images=files)
        findings += _check_golden(directory, slice_, projections)
        return [*findings, check_fingerprint(manifest_of(directory), recipe, slice_, projections)]


def _check_golden(directory: Path, slice_: Slice, projections: dict[str, Fitted]) -> Iterator[Finding]:
    """Check that the golden vectors of a manifest are what Keras answers now; version 1 has none."""
    check = GoldenCheck.read(manifest_of(directory))
    if check is not None:
        again = golden_reference(slice_, projections, check.golden)
        found = {name: float(sketch_deviations(check.golden.vectors[name], again[name]).max()) for name in again}
        # Rounding is the processor's own. What a lower precision may add is not in here.
        far = {name: deviation for name, deviation in found.items() if not deviation <= EQUALITY}
        yield expect(
            "its golden vectors are those of Keras",
            not far,
            f"relative L2 {max(found.values()):.1e} of {EQUALITY:g}",
            f"Expected golden vectors within {EQUALITY:g} of Keras. Received: "
            f"{', '.join(f'{name} {deviation:.2g}' for name, deviation in far.items())}.",
        )


def check_fingerprint(
    manifest: Mapping[str, Any], recipe: ModelRecipe, slice_: Slice, projections: Mapping[str, Fitted]
) -> Finding:
    """Check that freezing the recipe again gives the same fingerprint, on which cached vectors depend.

    Versions from before batch norms were folded are as right as ever.
    """
    ranges: dict[str, Ranges] = {
        output["name"]: (_range(output, "min"), _range(output, "max"))
        for output in manifest["outputs"]
        if output["quantization"]
    }

    arithmetic = Arithmetic.read(manifest)

    def built(*, folded: bool) -> str:
        frozen = frozen_graph(slice_, projections, arithmetic.name, folded=folded)
        classes, figures = described_classes(slice_), arithmetic.identity
        return fingerprint(frozen, recipe.input, ranges, recipe.tolerances, classes, figures)

    again, wanted, detail = built(folded=True), manifest["fingerprint"], ""
    if again != wanted and built(folded=False) == wanted:
        again, detail = wanted, ", from before batch norms were folded: a new export is faster"
    return expect(
        "built again, the fingerprint is the same",
        again == wanted,
        f"{again}{detail}",
        f"Expected the fingerprint {wanted}. Received: {again} when built again.",
    )


def _range(output: dict[str, Any], side: str) -> np.ndarray[Any, Any]:
    return np.array(output["quantization"][side], np.float32)
