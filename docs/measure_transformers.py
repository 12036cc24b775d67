"""Measure KerasHub's families of transformers at full size, and write the table of docs/guides/transformers.md.

python docs/measure_transformers.py            measures what transformers.json lacks
python docs/measure_transformers.py --page     only writes the table

Each is built with random weights, saved as a preset, exported by `microtome export` and served by the embedded model
server and a gateway. Its answers are compared with KerasHub's own layers.
"""

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from measuring import Json, Page, microtome, parser, table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.e2e.processes import Gateway, ModelServer  # noqa: E402
from tests.transformer_models import FAMILIES, Sizes, entry, saved, served_errors  # noqa: E402

GUIDE = ROOT / "docs" / "guides" / "transformers.md"
START, END = "<!-- table -->\n", "<!-- end of table -->"
BASE = Sizes(224, 16, 12, 768, 12, 3072)
FULL = {
    "vit": ("ViT-B/16", BASE),
    "dinov2": ("DINOv2 ViT-S/14, 2 registers", Sizes(224, 14, 12, 384, 6, 1536)),
    "dinov3": ("DINOv3 ViT-S/16, 4 registers", Sizes(224, 16, 12, 384, 6, 1536)),
    "siglip": ("SigLIP B/16, vision", BASE),
    "siglip2": ("SigLIP 2 B/16, vision", BASE),
    "clip": ("CLIP B/16, vision", BASE),
    "swin": ("Swin-T", Sizes(112, 8, 4, 192, 6, 768)),
}
HEAD = (
    "preset", "weights", "blocks", "operations, counted", "by the formula", "first block", "export", "of a processor",
    "memory", "error over HTTP",
)  # fmt: skip


def formula(name: str, sizes: Sizes) -> int:
    """Return the operations of a transformer for one image; a multiply-add is two."""
    if name == "swin":
        return _swin_formula()
    patches = (sizes.image // sizes.patch) ** 2
    tokens, width = patches + FAMILIES[name].prefix, sizes.width
    attention = 8 * tokens * width**2 + 4 * tokens**2 * width
    mlp = 4 * tokens * width * sizes.hidden
    return 2 * patches * sizes.patch**2 * 3 * width + sizes.blocks * (attention + mlp)


def _swin_formula() -> int:
    """Swin-T of 224x224: depths 2, 2, 6, 2, windows of 7x7, patches merged four to one between stages."""
    total, width, tokens = 2 * 56 * 56 * 48 * 96, 96, 56 * 56
    for stage, depth in enumerate((2, 2, 6, 2)):
        total += depth * (8 * tokens * width**2 + 4 * tokens * 49 * width + 4 * tokens * width * 4 * width)
        if stage < 3:
            tokens //= 4
            total += 2 * tokens * 4 * width * 2 * width
            width *= 2
    return total


def measured(name: str) -> Json:
    """Export and serve one family at full size."""
    title, sizes = FULL[name]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as ending:
        place = Path(folder)
        model = saved(name, place / name, sizes)
        listed = microtome(["layers", f"keras_hub:{place / name}", "--all", "--json"])
        if listed.failed is not None:
            raise SystemExit(f"microtome layers: {listed.failed}")
        points = {point["name"]: point for point in json.loads(listed.printed)}
        ends = [points[key] for key in points if key.endswith(_last(name, sizes))]
        first = next(point for key, point in points.items() if key.endswith(FAMILIES[name].block.format(0, 1)))
        recipe = place / "recipe.yaml"
        recipe.write_text(json.dumps({"models": [entry(name, f"keras_hub:{name}")]}), encoding="utf-8")  # JSON is YAML
        export = microtome(["export", str(recipe), "--out", str(place / "models")])
        if export.failed is not None:
            return {"title": title, **export.facts}
        server = ModelServer(place, place / "models")
        gateway = Gateway(place, server.address, name)
        ending.callback(server.destroy)
        ending.callback(gateway.destroy)
        server.start()
        gateway.start()
        with gateway.client() as client:
            errors = served_errors(client, name, model)
    facts = {"title": title, "params": ends[0]["params"], "flops": ends[0]["flops"], "formula": formula(name, sizes)}
    blocks = 12 if name != "swin" else 2 + 2 + 6 + 2
    return {**facts, "blocks": blocks, "first_flops": first["flops"], **export.facts, "error": max(errors.values())}


def _last(name: str, sizes: Sizes) -> str:
    if name == "swin":
        return "stage_3/blocks_1"
    return "/" + FAMILIES[name].block.format(sizes.blocks - 1, sizes.blocks)


def page(found: Json) -> str:
    """Return the guide with the table of what was measured."""
    text = GUIDE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    return before + START + table(HEAD, [_row(found[name]) for name in FULL]) + END + rest.partition(END)[2]


def _row(found: Json) -> tuple[str, ...]:
    if "failed" in found:
        return (found["title"], *["-"] * (len(HEAD) - 2), found["failed"])
    return (
        found["title"],
        f"{found['params'] / 1e6:.1f} M",
        str(found["blocks"]),
        f"{found['flops'] / 1e9:.3f} G",
        f"{found['formula'] / 1e9:.3f} G",
        f"{found['first_flops'] / 1e9:.3f} G",
        f"{found['seconds']:.0f} s",
        f"{found['cpu_seconds']:.0f} s",
        f"{found['peak_bytes'] / 1e9:.1f} GB",
        f"{found['error']:.1e}",
    )


if __name__ == "__main__":
    options = parser(__doc__, FULL).parse_args()
    sys.exit(Page("transformers", page, GUIDE).measure(FULL, measured, options))
