"""The doctor says what is missing, what that costs, and how to get it."""

import json
from importlib import metadata, util
from pathlib import Path

import pytest

from pipeline import doctor


def test_here_the_base_is_usable(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    found = {finding["name"]: finding for finding in document["findings"]}
    assert document["usable"] is True
    assert found["pyarrow"]["detail"] == metadata.version("pyarrow")
    assert doctor.main([]) == 0
    assert "the base is usable" in capsys.readouterr().out


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    real = util.find_spec
    monkeypatch.setattr(doctor.util, "find_spec", lambda name, *rest: None if name in modules else real(name, *rest))


def test_a_missing_base_package_makes_it_unusable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    hide(monkeypatch, "duckdb")
    assert doctor.main([]) == 1
    text = capsys.readouterr().out
    assert "no pipeline.audit sql" in text and "uv pip install" in text and "NOT usable" in text


def test_missing_extras_leave_it_usable_and_name_what_is_lost(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    hide(monkeypatch, "torch", "segment_anything", "diffusers")
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    assert "no object masks" in text and "[perception]" in text and "[train]" in text


def test_the_ray_token_trap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def warned() -> bool:
        return any(finding.name == "ray authentication" for finding in doctor.examine())

    monkeypatch.setattr(doctor.Path, "home", staticmethod(lambda: tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert not warned()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    assert warned()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert not warned()


def test_the_wrong_gluestick(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "3.0.1" if name == "gluestick" else real(name))
    [finding] = [finding for finding in doctor.examine() if finding.name == "gluestick"]
    assert finding.state == "warning" and "unrelated ETL" in finding.detail


def test_no_browser_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    [finding] = [finding for finding in doctor.examine() if finding.name == "browser"]
    assert finding.state == "missing" and finding.fix == "apt-get install chromium"
