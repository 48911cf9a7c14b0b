import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.studio.__main__ import main
from pipeline.studio.layouts import LAYOUTS


def test_the_command_writes_a_dataset_and_says_where(tmp_path, capsys):
    out = tmp_path / "rig"
    sizes = ["--scenes", "1", "--cameras", "2", "--frames", "3", "--size", "64x48"]
    assert main(["rig", "--output", str(out), *sizes, "--truth", str(tmp_path / "t")]) == 0
    assert f"rig: written to {out}, truth to {tmp_path / 't'}" in capsys.readouterr().out
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))
    assert written == ["scene1/cameras.json", "scene1/videos/cam01.mp4", "scene1/videos/cam02.mp4"]
    assert (tmp_path / "t/scene1.npz").is_file()


def test_wrong_arguments_exit_with_2_and_name_what_is_allowed(tmp_path, capsys):
    assert main(["kubric", "--output", str(tmp_path / "x")]) == 2
    text = capsys.readouterr().err
    assert all(name in text for name in LAYOUTS)
    with pytest.raises(SystemExit) as caught:
        main(["rig", "--output", str(tmp_path / "x"), "--size", "64*48"])
    assert caught.value.code == 2 and "WIDTHxHEIGHT" in capsys.readouterr().err
    assert main(["realestate10k", "--output", str(tmp_path / "y"), "--trajectories", str(tmp_path)]) == 2
    assert "no trajectory" in capsys.readouterr().err


def test_help_names_every_layout_and_option(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(word in text for word in (*LAYOUTS, "--scenes", "--cameras", "--frames", "--size", "--seed", "--truth", "examples:"))


def test_importing_the_studio_loads_neither_torch_nor_ray():
    modules = "pipeline.studio, pipeline.studio.__main__, pipeline.studio.layouts.realestate10k"
    code = f"import sys, {modules}; print('torch' in sys.modules, 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
