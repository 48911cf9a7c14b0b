"""Every target, in the order of what a user hands over first."""

from tests.fuzz import archives, cameras, folders, media, outputs, texts
from tests.fuzz.target import Target


def targets() -> list[Target]:
    found = [target for module in (texts, cameras, folders, archives, media, outputs) for target in module.targets()]
    assert len({target.name for target in found}) == len(found)
    return found
