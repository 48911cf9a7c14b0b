"""Which code and which packages made a result."""

import subprocess
from hashlib import sha256
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def version() -> str:
    """Of the installed distribution; "source" when run from a checkout that was not installed."""
    try:
        return metadata.version("parallax-curation")
    except metadata.PackageNotFoundError:
        return "source"


def code_version() -> str:
    """The git commit, with "-dirty" where files differ from it; else a hash over our own sources.

    A job's working directory travels without .git, so the hash is what a cluster run records.
    """
    if (_ROOT / ".git").exists():
        try:
            commit = _git("rev-parse", "HEAD")
            return f"git:{commit}{'-dirty' if _git('status', '--porcelain', '--untracked-files=no') else ''}"
        except (OSError, subprocess.CalledProcessError):
            pass  # no git program, or no commit yet: the sources speak for themselves
    digest = sha256()
    for folder in ("pipeline", "schemas", "stages"):
        for path in sorted(each for each in (_ROOT / folder).rglob("*") if each.is_file() and "__pycache__" not in each.parts):
            digest.update(str(path.relative_to(_ROOT)).encode() + b"\0" + path.read_bytes())
    return f"sources:{digest.hexdigest()[:40]}"


def lock_sha256() -> str | None:
    """Digest of requirements.lock; None where the checkout has none."""
    lock = _ROOT / "requirements.lock"
    return sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(_ROOT), *arguments], check=True, capture_output=True, text=True, timeout=30).stdout.strip()
