"""`microtome inspect`: a version's manifest, for people."""

import argparse
from typing import Any

from exporter.commands.arguments import add_version_to
from microtome.errors import shown

DESCRIPTION = "Print a version's manifest for people: what it is, what it returns, what it costs."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_version_to(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the manifest."""
    from rich.console import Console  # noqa: PLC0415

    from exporter.runtime.terminal import print_table  # noqa: PLC0415
    from exporter.savedmodel.versions import find_version, manifest_of  # noqa: PLC0415

    directory = find_version(arguments.directory)
    manifest = manifest_of(directory)
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    model = f"{manifest['model']} version {directory.resolve().name}, {size / 1e6:.1f} MB"
    said = manifest.get("precision") or {}
    precision = said.get("arithmetic") or said.get("compute") or "float32"
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    console = Console(highlight=False)
    for name, text in (
        ("model", f"{model}, computes in {precision}"),
        ("backbone", f"{manifest['backbone']['name']}, weights {manifest['backbone']['weights']}"),
        ("", manifest["backbone"]["source"]),
        ("precision", _precision(said)),
        ("takes", _tokens(manifest["input"]) if manifest.get("tower") == "text" else _input(manifest["input"])),
        ("family", _family(manifest)),
        ("batches", f"up to {manifest['max_batch_size']}"),
        ("fingerprint", manifest["fingerprint"]),
        ("made", f"{manifest['created']} with {versions}"),
    ):
        if text:
            console.print(f"{name:<12}{shown(text)}", soft_wrap=True, markup=False)
    columns = ("output", "layer", "embedding", "shape", "parameters", "MFLOPs")
    print_table(columns, [_cells(output, manifest) for output in manifest["outputs"]], console=console)
    return 0


def _precision(said: dict[str, Any]) -> str:
    """Return what a lower precision costs, by the worst cosine of each output with float32."""
    worst = said.get("worst_cosine") or {}
    tried = said.get("tried") or ({said.get("arithmetic") or said.get("compute"): worst} if worst else {})
    on = f" on {said['images']} images" if said.get("images") else " on sample images" if tried else ""
    figures = [
        f"{name} "
        + ("is not possible" if found is None else ", ".join(f"{one} {cosine:.5f}" for one, cosine in found.items()))
        for name, found in tried.items()
    ]
    costs = f"worst cosine with float32{on}: {'; '.join(figures)}" if figures else ""
    return f"auto; {costs}" if said.get("asked") == "auto" else costs


def _input(wanted: dict[str, Any]) -> str:
    side = f" {wanted['shortest_side']}" if wanted["shortest_side"] else ""
    how = wanted["interpolation"] + (", centre crop" if wanted["crop"] == "center" else "")
    colour = {"gray": "gray", "rgb": "RGB", "rgba": "RGB and opacity"}[wanted["color"]]
    # Older manifests have `jpeg_draft`, of which true is balanced.
    decode = wanted.get("decode") or ("balanced" if wanted["jpeg_draft"] else "exact")
    more = f"; on {wanted['background']}" if wanted.get("background") else ""
    more += "; deep greys scaled" if wanted.get("depth") == "scale" else ""
    resized = f"resize {wanted['resize']}{side}, {how}"
    return f"{wanted['height']}x{wanted['width']} {colour}; {resized}; decode {decode}{more}"


def _tokens(wanted: dict[str, Any]) -> str:
    small, tokenizer = ", A to Z as small letters" if wanted["lowercase"] else "", wanted["tokenizer"]
    return (
        f"text: {wanted['length']} tokens of {wanted['vocabulary']:,}, shorter ones filled with {wanted['pad']}{small}"
        f"; tokenizer of {tokenizer['size'] / 1e6:.1f} MB, sha256 {tokenizer['sha256'][:12]}…"
    )


def _family(manifest: dict[str, Any]) -> str:
    if not manifest.get("family"):
        return ""
    return f"{manifest['family']}, its {manifest['tower']} tower; space {manifest['space']}"


def _cells(output: dict[str, Any], manifest: dict[str, Any]) -> tuple[str, ...]:
    default = " (default)" if output["name"] == manifest["default_output"] else ""
    flops = "?" if output["flops"] is None else f"{output['flops'] / 1e6:,.0f}"
    shape = "x".join(map(str, output["shape"]))
    steps = _steps(output, manifest)
    return output["name"] + default, output["layer"], steps, shape, f"{output['params']:,}", flops


def _steps(output: dict[str, Any], manifest: dict[str, Any]) -> str:
    """Return the steps from the layer to the embedding."""
    steps = [output["pooling"]]
    projection, quantization = output["projection"], output["quantization"]
    if projection:
        steps.append(f"{projection['kind']} {projection['from']} to {projection['dim']}")
        if "explained_variance" in projection:
            steps[-1] += f" ({projection['explained_variance']:.1%} of the variance)"
    if output.get("normalize") == "l2":
        steps.append("l2")
    if quantization:
        steps.append(f"{quantization['scheme']} ranges")
    cosine = ((manifest.get("precision") or {}).get("median_cosine") or {}).get(output["name"])
    if cosine is not None:
        steps.append(f"median cosine with float32 {cosine:.5f}")
    cosine = ((manifest.get("precision") or {}).get("decode_cosine") or {}).get(output["name"])
    if cosine is not None:
        steps.append(f"worst cosine with decode balanced {cosine:.5f}")
    return ", ".join(steps)
