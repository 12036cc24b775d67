"""Export, serve and compare models of one's own, and write the table of docs/guides/own_models.md.

python docs/measure_own_models.py

The models are those of tests/tutorial_models.py. All are served together, by one model server and one gateway.
"""

import sys
import tempfile
from pathlib import Path

from measuring import table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guides" / "own_models.md"
START, END = "<!-- table -->\n", "<!-- end of table -->"
HEAD = ("source", "cut", "error of the cut", "of the output", "export", "size")


def measured() -> list[tuple[str, ...]]:
    """Return a row for each model."""
    sys.path.insert(0, str(ROOT))
    from tests.e2e.processes import Gateway, ModelServer  # noqa: PLC0415 -- found by the path above
    from tests.tutorial_models import SOURCES, exported, model_name  # noqa: PLC0415

    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        found = {source: exported(source, folder, folder / "models") for source in SOURCES}
        model_server = ModelServer(folder, folder / "models")
        gateway = Gateway(folder, model_server.address, ",".join(map(model_name, SOURCES)))
        try:
            model_server.start()
            gateway.start()
            for source, one in found.items():
                cut, end = one.errors(one.served(gateway.url))
                costs = (f"{one.seconds:.1f} s", f"{one.size / 1e3:.0f} kB")
                rows.append((source, f"`{one.cut}`", f"{cut:.1e}", f"{end:.1e}", *costs))
        finally:
            gateway.destroy()
            model_server.destroy()
    return rows


def main() -> int:
    """Write the table."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    PAGE.write_text(f"{before}{START}{table(HEAD, measured())}{END}{rest.partition(END)[2]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
