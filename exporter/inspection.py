"""Print a version for people: what it is, what it returns, what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from exporter.tables import print_table
from exporter.versions import manifest_of


def print_version(directory: Path) -> None:
    """Print a version's manifest on stdout.

    Raises:
        NoVersion: The manifest is damaged.
    """
    manifest = manifest_of(directory)
    console = Console(highlight=False)
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    precision = manifest.get("precision", {}).get("compute", "float32")
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    for name, text in (
        (
            "model",
            f"{manifest['model']} version {directory.resolve().name}, {size / 1e6:.1f} MB, computes in {precision}",
        ),
        ("backbone", f"{manifest['backbone']['name']}, weights {manifest['backbone']['weights']}"),
        ("", manifest["backbone"]["source"]),
        ("takes", _input(manifest["input"])),
        ("batches", f"up to {manifest['max_batch_size']}"),
        ("fingerprint", manifest["fingerprint"]),
        ("made", f"{manifest['created']} with {versions}"),
    ):
        console.print(f"{name:<12}{text}", soft_wrap=True, markup=False)
    table = Table("output", "layer", "embedding", "shape", "parameters", "MFLOPs")
    for output in manifest["outputs"]:
        default = " (default)" if output["name"] == manifest["default_output"] else ""
        flops = "?" if output["flops"] is None else f"{output['flops'] / 1e6:,.0f}"
        shape = "x".join(map(str, output["shape"]))
        table.add_row(
            output["name"] + default, output["layer"], _way(output, manifest), shape, f"{output['params']:,}", flops
        )
    print_table(table, console)


def _input(wanted: dict[str, Any]) -> str:
    side = f" {wanted['shortest_side']}" if wanted["shortest_side"] else ""
    crop = ", centre crop" if wanted["crop"] == "center" else ""
    return f"{wanted['height']}x{wanted['width']} RGB; resize {wanted['resize']}{side}, {wanted['interpolation']}{crop}"


def _way(output: dict[str, Any], manifest: dict[str, Any]) -> str:
    """Say how the layer becomes the embedding."""
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
