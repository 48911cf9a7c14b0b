"""The command line as users and their scripts know it. A change of the table below is a change of what we promised."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Command: arguments in order, then options. "=X" takes a value; "=a|b" one of these; "!" is required; "*" may be repeated.
# "--a/--no-a" are two names of one option; "..." stands for everything of the command above.
SURFACE = """
curate          RECIPE  --input=NAME=PATH* --output=DIR! --executor=inline|process|ray --workers=N --captions=FILE --limit=N
                        --dry-run --explain --retry-errors --selection=NAME --seed=N --error-budget=SHARE --accept-noncommercial
                        --no-report --quiet
audit summary   DIR             --json
audit verify    DIR             --quiet
audit report    DIR             --output=FILE
audit show      DIR SAMPLE_ID
audit sql       DIR QUERY       --csv
audit diff      DIR DIR2        --tolerance=SHARE --json
audit compare   DIR DIR2        --a=NAME --b=NAME --pairs=N --seed=N --output=FILE
audit export    DIR             --output=DIR2! --license=LICENCE* --mixed-licenses --accept-noncommercial
audit what-if   DIR             --set=[SOURCE.]stage.key=value*! --write=NAME --json
studio          LAYOUT  --output=DIR! --scenes=N --cameras=V --frames=F --size=WxH --seed=N --truth=DIR
                        --footage=video|frames|torch --calibration=json|colmap|qualisys --trajectories=DIR
cameras         FILE    --output=FILE
demo                            --output=DIR --seed=N
doctor                          --json
encode_latents          --data=DIR! --selection=NAME --split=NAME --base=NAME|PATH! --output=DIR2! --size=HxW! --frames=N
                        --frame-stride=N --precision=no|bf16|fp16 --device=NAME --limit=N --random-base=SEED --retry-errors
                        --dry-run --quiet
train text_to_video     --data=DIR! --base=NAME|PATH! --output=DIR! --resume=latest|PATH --init-weights=DIR|CKPT --dry-run
                        --random-base=SEED --selection=NAME --split=S --views=N --image-views=N --frames=N --frame-stride=N --size=HxW
                        --mix=KIND=SHARE,... --curriculum=STEP:LOW-HIGH,...|none --first-view=random|first
                        --payload=frames|latents --seed=N
                        --steps=N --lr=RATE --batch=N --warmup=N --lr-schedule=constant|cosine --weight-decay=W
                        --max-grad-norm=N --precision=no|bf16|fp16
                        --micro-batch=N --gradient-checkpointing --fsdp --compile --device=auto|cpu|cuda --workers=N
                        --launcher=local|ray --ray-workers=N --ray-gpus=N
                        --checkpoint-every=N --keep=N --validate-every=N --log-every=N --quiet
train syncammaster ...  --camera=extrinsics|plucker --translation=two_metres|metres|normalised --text-per-view --no-view-rope
                        --text-dropout=SHARE --novel-view=SHARE --loss-on-input
infer syncammaster      --weights=DIR|CKPT --base=NAME|PATH --prompt=TEXT --cameras=PRESET|FILE --output=DIR! --modules-off
                        --dry-run --video=FILE --video-start=N --video-stride=N --video-guidance=S --text-guidance=S
                        --data=DIR --selection=NAME --split=S --limit=N --video-from-data
                        --views=N --frames=N --size=HxW --fps=N
                        --steps=N --guidance=G --dynamic-guidance/--no-dynamic-guidance --negative-prompt=TEXT --seed=N
                        --device=NAME --precision=no|bf16|fp16 --sequential-guidance --random-base=SEED --quiet
evaluate syncammaster   --weights=DIR*! --base=NAME|PATH --data=DIR! --selection=NAME --split=S --limit=N --output=DIR!
                        --compare=LIST --views=N --angles=LOW-HIGH --frames=N --frame-stride=N --size=HxW
                        --steps=N --video-guidance=S --text-guidance=S --seed=N
                        --batch=N --device=NAME --precision=no|bf16|fp16 --random-base=SEED --quiet
weights list                    --json
weights fetch   NAME            --offline --quiet --accept-noncommercial
weights verify  NAME
weights path    NAME            --accept-noncommercial
methods.syncammaster.weights import CKPT --base=BASE --output=DIR!
"""

WITH_VERB = ("audit", "weights", "train", "infer", "evaluate", "methods.syncammaster.weights")


def promised() -> dict[str, list[str]]:
    table: dict[str, list[str]] = {}
    for line in SURFACE.strip().splitlines():
        words = line.split()
        if not line.startswith(" "):
            length = 2 if words[0] in WITH_VERB else 1
            command, words = " ".join(words[:length]), words[length:]
            above = next(reversed(table.values()), [])
            table[command] = above.copy() if words[:1] == ["..."] else []
        table[command] += [word for word in words if word != "..."]
    return table


def offered(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The same list, read from the parser that the command itself makes."""
    import argparse

    made: list[argparse.ArgumentParser] = []
    parse = argparse.ArgumentParser.parse_known_args

    def watched(self: argparse.ArgumentParser, *arguments: object, **settings: object) -> object:
        made.append(self)
        return parse(self, *arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", watched)
    with pytest.raises(SystemExit) as ended:
        main(command.split()[0])([*command.split()[1:], "--help"])
    assert ended.value.code == 0
    capsys.readouterr()
    positional, options = [], []
    for action in made[-1]._actions:
        names = [name for name in action.option_strings if name.startswith("--")]
        if "--help" in names:
            continue
        if not names:
            positional.append(str(action.metavar))
            continue
        value = "" if action.nargs == 0 else "=" + ("|".join(action.choices) if action.choices else action.metavar or action.dest.upper())
        repeat = "*" if isinstance(action, argparse._AppendAction) else ""
        options.append("/".join(names) + value + repeat + ("!" if action.required else ""))
    return positional + options


def main(command: str):
    name = "pipeline.studio.__main__" if command == "studio" else f"pipeline.{command}"
    return importlib.import_module(name).main


@pytest.mark.parametrize("command", promised())
def test_the_command_line_is_the_promised_one(command, monkeypatch, capsys):
    assert offered(command, monkeypatch, capsys) == promised()[command]


@pytest.mark.parametrize(
    "command",
    [
        *("curate", "audit", "cameras", "studio", "demo", "doctor", "weights", "encode_latents"),
        *("train", "train syncammaster", "infer syncammaster", "evaluate"),
    ],
)
def test_help_ends_with_0_says_the_command_to_type_and_gives_examples(command, tmp_path):
    """As a user starts it: another process, from a folder that is not the repository."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    call = [sys.executable, "-m", *f"pipeline.{command}".split(), "--help"]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: python -m pipeline.{command}" in done.stdout
    examples = done.stdout.partition("examples:")[2]
    assert f"python -m pipeline.{command}" in examples, done.stdout
    assert "exit" in done.stdout.lower(), "the exit codes are part of the interface"
    assert list(tmp_path.iterdir()) == []


def ends(command: str, *arguments: str) -> int:
    """The exit code, whether main returns it or argparse raises it."""
    try:
        return int(main(command)(list(arguments)))
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.mark.parametrize(
    "line",
    [
        "curate",
        "curate smoke --output out",
        "curate smoke --input clips={here}",
        "curate smoke --input clips={here} --output out --executor cloud",
        "curate smoke --input clips={here} --output out --workers 0",
        "curate smoke --input clips={here} --output out --limit -1",
        "curate smoke --input clips={here} --output out --error-budget 1.5",
        "curate smoke --input clips={here} --input clips={here} --output out",
        "curate smoke --input clips={here}/nothing --output out",
        "curate smoke --input clps={here} --output out",
        "curate smke --input clips={here} --output out",
        "curate smoke --input clips={here} --output {here}/out",
        "curate smoke --input clips={here} --output out --captions {here}/none.json",
        "curate smoke --input clips={here} --output out",  # an empty folder
        "weights",
        "weights fetch",
        "weights fetch nonsense",
        "weights path a b",
        "audit",
        "audit frobnicate out",
        "audit summary {here}",
        "audit verify {here}/nothing",
        "audit report {here}",
        "audit show {here} x",
        "audit sql {here} SELECT",
        "audit compare {here}",
        "studio",
        "studio clps --output out",
        "studio clips --output out --size 3x4",
        "studio clips --output out --size big",
        "studio clips --output out --scenes 0",
        "studio clips --output out --footage torch",
        "cameras",
        "cameras {here}",
        "cameras {here}/none.json --output out.html",
        "demo --seed many",
        "doctor --frobnicate",
        "encode_latents",
        "encode_latents --data {here} --base tiny --output out --size 64",
        "encode_latents --data {here} --base tiny --output out --size 64x64",  # an empty folder
        "encode_latents --data {here} --base tiny --output {here} --size 64x64",
        "encode_latents --data {here} --base tiny --output out --size 64x64 --frames 0",
        "train",
        "train syncamaster --data {here} --base tiny --output out",
        "train --data {here} syncammaster",
        "train syncammaster --data {here} --output out",
        "train syncammaster --data {here} --base tiny --output out",  # an empty folder
        "train syncammaster --data {here}/nothing --base tiny --output out --dry-run",
        "train syncammaster --data {here} --base tiny --output out --resume out/checkpoints/step-00000001",
        "train syncammaster --data {here} --base tiny --output out --size 64",
        "train syncammaster --data {here} --base tiny --output out --mix multiview_video",
        "train syncammaster --data {here} --base tiny --output out --mix multiview_video=0.5",
        "train syncammaster --data {here} --base tiny --output out --mix multi_view=1",
        "train syncammaster --data {here} --base tiny --output out --curriculum 0-60",
        "train syncammaster --data {here} --base tiny --output out --curriculum 0:60-30",
        "train syncammaster --data {here} --base tiny --output out --batch 2 --micro-batch 4",
        "train syncammaster --data {here} --base tiny --output out --steps 0",
        "train syncammaster --data {here} --base tiny --output out --fsdp",
        "train syncammaster --data {here} --base tiny --output out --camera euler",
        "train text_to_video --data {here} --base tiny --output out --camera extrinsics",
        "infer",
        "infer syncamaster --output out",
        "infer --output out syncammaster",
        "infer syncammaster --prompt p --cameras azimuth --output out",
        "infer syncammaster --weights {here} --prompt p --cameras azimuth --output out",
        "infer syncammaster --modules-off --base tiny --cameras azimuth --output out --frames 3 --size 64x64",
        "infer syncammaster --modules-off --base tiny --prompt p --cameras azimut --output out --frames 3 --size 64x64",
        "infer syncammaster --modules-off --base tiny --prompt p --cameras arc:angel=9 --output out --frames 3 --size 64x64",
        "infer syncammaster --modules-off --base tiny --prompt p --cameras azimuth --output out --frames 3 --size 60x60",
        "infer syncammaster --modules-off --base tiny --prompt p --cameras azimuth --output out --video-guidance 2",
        "evaluate",
        "evaluate syncamaster --weights {here}",
        "evaluate syncammaster --weights {here} --output out",
        "evaluate syncammaster --weights {here} --data {here} --output out",
        "evaluate syncammaster --weights {here} --data {here} --output out --angles 60-0",
        "methods.syncammaster.weights",
        "methods.syncammaster.weights import none.ckpt --output out",
        "methods.syncammaster.weights import {here} --output {here}",
    ],
)
def test_a_wrong_command_line_ends_with_2_says_why_and_writes_nothing(line, tmp_path, monkeypatch, capsys):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(tmp_path)
    command, *arguments = line.format(here=here).split()
    assert ends(command, *arguments) == 2
    said = capsys.readouterr()
    assert said.err.strip() and "Traceback" not in said.err + said.out
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["here"]


def test_a_good_run_ends_with_0_and_a_damaged_folder_with_1(tmp_path, capsys):
    assert ends("studio", "rig", f"--output={tmp_path / 'rig'}", "--scenes=1", "--cameras=2", "--frames=4", "--size=64x48") == 0
    out = str(tmp_path / "out")
    run = ["curate", "smoke", f"--input=rig={tmp_path / 'rig'}", f"--output={out}", "--executor=inline", "--quiet"]
    assert ends(*run) == 0
    assert [ends("audit", verb, out, *more) for verb, more in (("summary", []), ("verify", ["--quiet"]), ("show", ["rig_-scene1"]))] == [
        0,
        0,
        0,
    ]
    assert ends("audit", "show", out, "nobody") == 1
    assert ends("audit", "sql", out, "SELECT count(*) FROM samples") == 0
    assert ends("audit", "sql", out, "DROP TABLE samples") == 2
    (shard,) = (tmp_path / "out" / "shards").iterdir()
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert ends("audit", "verify", out, "--quiet") == 1
    assert "sha256" in capsys.readouterr().out


def test_more_errors_than_the_budget_end_with_3(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "no.mp4").write_bytes(b"no video")
    run = ["curate", "smoke", f"--input=clips={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--executor=inline", "--quiet"]
    assert ends(*run) == 3
    assert "1 of 1 samples (100.0%) are errors, more than --error-budget 5.0%" in capsys.readouterr().err
    assert ends(*run, "--error-budget=1") == 0
