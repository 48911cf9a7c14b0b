"""Footage whose likeness is known: what finding twins is tested with.

A file `<name>.txt` holds a number, and below it what it shows and how many bits of its frames' hashes are turned. Run as
`python -m tests.engine.twins WORK`, this kills a curation at every ninth commit step, resumes it, and prints the digests as JSON.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.curate import main as curate
from stages.fingerprint import Fingerprint
from stages.media import Media
from stages.stage import Findings, Item
from tests.engine.storm import digest, run


def show(root: Path, name: str, what: int, turned: int = 0, number: int = 1, filler: str = "") -> None:
    """Footage of `what`, `turned` bits of 512 from the plain one. Equal arguments make equal bytes."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / f"{name}.txt"
    path.write_text(f"{number}\n{what} {turned}\n{filler}" + "." * 300)
    os.utime(path, ns=(1_700_000_000_000_000_000 + len(name), 1_700_000_000_000_000_000 + len(name)))


def hashes_of(what: int, turned: int) -> list[int]:
    """Eight hashes. The bits that are turned lie all over them; more of them contain fewer."""
    bits = np.random.default_rng(what).integers(0, 2, 512, np.uint8)
    bits[np.random.default_rng([what, 1]).permutation(512)[:turned]] ^= 1
    return [int.from_bytes(np.packbits(each).tobytes(), "big") for each in bits.reshape(8, 64)]


class Shown(Fingerprint):
    """The fingerprint that the file asks for, its bytes as the real stage takes them. Notes every item in the file that SHOWN_LOG names."""

    def score(self, item: Item, media: Media) -> Findings:
        view = item.scene.views[0]
        what, turned = map(int, (Path(media.tree.location) / view.media.files[0].path).read_text().split("\n")[1].split())
        if log := os.environ.get("SHOWN_LOG"):
            with Path(log).open("a") as file:
                file.write(f"{item.sample_id}\n")
        content = self._content(view, None if item.child is None else item.child.frames[0], media)
        return Findings(fields={"fingerprint": {"content": content[-40:], "views": 1, "hashes": hashes_of(what, turned)}})


def recipe(path: Path, sources: dict[str, dict[str, Any]], unit: int = 3) -> Path:
    """sources: by name, what differs from the toy's; "shown" holds the settings of Shown."""
    plain = {}
    for name, given in sources.items():
        more = dict(given)
        stages = [*more.pop("first", []), {"tests.engine.toy:Touchy": {}}, {"tests.engine.twins:Shown": more.pop("shown", {})}]
        plain[name] = {"ingest": "tests.engine.toy:Numbers", "license": "CC0-1.0", "stages": stages, **more}
    path.write_text(yaml.safe_dump({"name": "twins", "units": {"size": unit}, "shards": {"target_mb": 0.004}, "sources": plain}))
    return path


def mixed(root: Path) -> list[str]:
    """Two sources of 20 with exact and near twins within and across them. Returns the --input arguments."""
    rng = np.random.default_rng(5)
    for source in ("a", "b"):
        for number in range(20):
            show(root / source, f"n{number:05d}", int(rng.integers(8)), int(rng.choice([0, 10, 30, 60])), number)
    return [f"--input={source}={root / source}" for source in ("a", "b")]


def main(work: Path) -> None:
    written = recipe(work / "recipe.yaml", {"a": {}, "b": {"target_count": 5, "best_by": "brightness"}})
    arguments = [str(written), *mixed(work / "in"), "--executor=inline", "--quiet", "--no-report"]
    assert curate([*arguments, f"--output={work / 'warm'}"]) == 0  # so that no child spends its time importing
    status, steps = run([*arguments, f"--output={work / 'reference'}"], None)
    assert status == 0, status
    digests = []
    for step in range(1, steps + 1, 9):
        shutil.rmtree(work / "killed", ignore_errors=True)
        assert os.WIFSIGNALED(run([*arguments, f"--output={work / 'killed'}"], step)[0]), f"step {step} was never reached"
        status, _ = run([*arguments, f"--output={work / 'killed'}"], None)
        assert status == 0, f"resuming after step {step} ended with {status}"
        digests.append(digest(work / "killed"))
    print(json.dumps({"reference": digest(work / "reference"), "digests": digests}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
