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
    precision = manifest.get("precision", {}).get("compute", "float32")
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    console = Console(highlight=False)
    for name, text in (
        ("model", f"{model}, computes in {precision}"),
        ("backbone", f"{manifest['backbone']['name']}, weights {manifest['backbone']['weights']}"),
        ("", manifest["backbone"]["source"]),
        ("takes", _input(manifest["input"])),
        ("batches", f"up to {manifest['max_batch_size']}"),
        ("fingerprint", manifest["fingerprint"]),
        ("made", f"{manifest['created']} with {versions}"),
    ):
        console.print(f"{name:<12}{shown(text)}", soft_wrap=True, markup=False)
    columns = ("output", "layer", "embedding", "shape", "parameters", "MFLOPs")
    print_table(columns, [_cells(output, manifest) for output in manifest["outputs"]], console=console)
    return 0


def _input(wanted: dict[str, Any]) -> str:
    side = f" {wanted['shortest_side']}" if wanted["shortest_side"] else ""
    more = ", centre crop" if wanted["crop"] == "center" else ""
    more += f"; on {wanted['background']}" if wanted.get("background") else ""
    more += "; deep greys scaled" if wanted.get("depth") == "scale" else ""
    return f"{wanted['height']}x{wanted['width']} RGB; resize {wanted['resize']}{side}, {wanted['interpolation']}{more}"


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
    return ", ".join(steps)
