"""What the documentation says is so: code runs, recipes work; commands, links, tables and names are real."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import typer

import graftwork as gw
from graftwork.__main__ import app
from graftwork.agents import AgentConfig
from graftwork.configs import load, override, presets, validate
from graftwork.configs.yaml_text import parse_argument
from graftwork.networks import EncoderConfig, choose
from graftwork.runs.config import run_config
from graftwork.runs.stages import StagesConfig
from graftwork.training import checkpoint

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
}
AGENTS = {config().kind: config for config in get_args(get_args(AgentConfig)[0])}
RECIPES = PAGES["CONTRIBUTING.md"]

SMALL = ("steps=400", "log.period=100", "evaluation.episodes=2", "evaluation.period=200")
SMALL_DQN = ("agent.learning_starts=100", "agent.train_period=8", "agent.updates=2")
SMALL_TASK = ("epochs=12",)
SMALL_TRANSITIONS = ("data.samples=600",)


def blocks(text: str, *languages: str) -> list[str]:
    return [body for language, body in re.findall(r"^```(\w+)\n(.*?)^```", text, re.M | re.S) if language in languages]


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def small(config: str | gw.RunConfig | gw.TaskRunConfig) -> tuple[str, ...]:
    """Overrides that make a short run of a preset, or of a config."""
    tree = load(config) if isinstance(config, str) else config.model_dump(mode="json")
    if "task" in tree:
        transitions = str(tree["data"]["name"]).startswith("transitions:")
        return SMALL_TASK + (SMALL_TRANSITIONS if transitions else ())
    return SMALL + (SMALL_DQN if tree["agent"]["kind"] == "dqn" else ())


@pytest.fixture
def small_budget(monkeypatch, tmp_path):
    """Runs of a few hundred steps, or a few passes over few data, in a folder of their own."""
    train, resume, evaluate = gw.train, gw.resume, gw.evaluate

    def small_train(config, *overrides, **others):
        return train(config, *overrides, *small(config), quiet=True, **others)

    def small_resume(run_dir, *overrides, **others):
        longer = {"steps": "steps=600", "epochs": "epochs=14"}
        return resume(run_dir, *(longer[each.partition("=")[0]] for each in overrides), quiet=True, **others)

    def small_evaluate(run_dir, *, episodes=100, **others):
        return evaluate(run_dir, episodes=min(episodes, 3), **others)

    for function, replacement in ((train, small_train), (resume, small_resume), (evaluate, small_evaluate)):
        monkeypatch.setattr(gw, function.__name__, replacement)
    monkeypatch.chdir(tmp_path)


# Code


def encoder_weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Those of an encoder, in a trainer's state."""
    network = state["learner"]["network"]
    return {name.removeprefix("encoder."): each for name, each in network.items() if name.startswith("encoder.")}


def final(run: str) -> dict[str, torch.Tensor]:
    return encoder_weights(checkpoint.load_newest(Path(run) / "checkpoints").state)


def first(run: str) -> dict[str, torch.Tensor]:
    return encoder_weights(checkpoint.load(Path(run) / "checkpoints" / f"step_{0:012d}").state)


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Names of what is not bit for bit the same."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def check_readme(names: dict[str, Any], out: str) -> None:
    assert names["action"] in (0, 1)
    assert names["agent"].predict([[0.0] * 4] * 5).shape == (5,)
    assert names["digit"] in range(10)
    assert names["scores"].table() in out
    assert names["scores"].heads["class"].accuracy > 0.8
    assert 0.5 < names["accuracy"] <= 1
    assert names["run"].step >= 600


def check_grafting(names: dict[str, Any], out: str) -> None:
    # From an agent to a task, frozen: the features are the agent's, and the head tells actions apart.
    assert not changed(final("runs/balance"), final("runs/dynamics-from-features"))
    change = names["change"]
    assert change.shape == (1, 2, 4)
    assert (change[0, 0] != change[0, 1]).any()
    assert set(names["scores"].heads) == {"change", "terminated"}
    assert out.startswith(str(names["scores"]))

    # From a task to an agent, which begins with what the task ended with, and trains on.
    assert not changed(final("runs/dynamics"), first("runs/balance-grafted"))
    assert changed(final("runs/dynamics"), final("runs/balance-grafted")) == set(final("runs/dynamics"))
    assert names["action"] in (0, 1)
    assert names["before"].keys() == final("runs/balance").keys()

    # From classes to others.
    source, runs = final("runs/digits-0-4"), ("scratch", "features", "finetuned", "thawed")
    ended = {name: changed(source, final(f"runs/{name}")) for name in runs}
    weights = {name for name in source if "layers" in name}
    later = {name for name in weights if "layers.0." not in name}
    assert later < weights
    assert weights <= ended["scratch"]
    assert ended["features"] == set()
    assert ended["finetuned"] == weights
    assert ended["thawed"] == later  # of the blocks the last was set free
    lines = [line.split() for line in out.splitlines()[-4:]]
    assert [name for name, _ in lines] == list(runs)
    assert all(0 <= float(accuracy) <= 1 for _, accuracy in lines)


CHECKS = {"README.md": check_readme, "docs/grafting.md": check_grafting}
"""What the code of a page comes to, where it does not say so itself."""

WITH_CODE = [page for page in PAGES if blocks(PAGES[page], "python")]


def test_pages_whose_code_is_checked_have_some():
    assert {"CONTRIBUTING.md", *CHECKS} <= set(WITH_CODE)


# The code of CONTRIBUTING.md is files to be written; see below.
@pytest.mark.parametrize("page", [page for page in WITH_CODE if page != "CONTRIBUTING.md"])
def test_code_of_page_runs_from_top_to_bottom(small_budget, page, capsys):
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks(PAGES[page], "python")):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
    if page in CHECKS:
        CHECKS[page](names, capsys.readouterr().out)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_example_runs(small_budget, path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", WITH_CODE)
def test_code_of_page_is_formatted_like_the_package(page):
    command = [sys.executable, "-m", "ruff", "format", "--check", "--stdin-filename", str(ROOT / "page.py"), "-"]
    for block in blocks(PAGES[page], "python"):
        found = subprocess.run(command, input=block, capture_output=True, text=True, timeout=60)
        assert found.returncode == 0, block


# Recipes of CONTRIBUTING.md


def follow_edits(package: Path) -> None:
    """Every "Write `file`" with the block after it, and every "In `file`, import ... and add it to the union"."""
    written = re.findall(r"Write `([^`]+)`[^`]*(?:`[^`]+`[^`]*)*?\n```(?:python|yaml)\n(.*?)^```", RECIPES, re.M | re.S)
    assert len(written) == 4
    for name, content in written:
        path = package / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    said = r"In `([^`]+)`, import `(\w+)` from `([.\w]+)` and add it to the union\s+`(\w+)`"
    edits = re.findall(said, RECIPES)
    assert len(edits) == 2
    for name, member, module, union in edits:
        path = package / name
        text = re.sub(rf"({union}: TypeAlias = Annotated\[\s*)", rf"\1{member} | ", path.read_text())
        path.write_text(re.sub(r"^(from \.)", rf"from {module} import {member}\n\1", text, count=1, flags=re.M))
    # "put the file into `envs/`"
    shutil.copy(package / "corridor.py", package / "envs")


FOLLOW = """
import json, shlex, sys
import pytest
from graftwork.__main__ import main
import graftwork
lines, block, small, small_dqn = json.loads(sys.stdin.read())
assert "copy" in graftwork.__file__
for line in lines:
    words = shlex.split(line, comments=True)
    if words[0].endswith("python"):
        assert words[1:3] == ["-m", "pytest"]
        assert pytest.main([*words[3:], "-q", "-p", "no:cacheprovider"]) == 0, line
    else:
        words = words[words.index("graftwork") + 1 :]
        budget = ["steps=700"] if words[0] == "resume" else [*small, *(small_dqn if words[1].startswith("dqn") else [])]
        assert main([*words, *budget]) == 0, line
train = graftwork.train
graftwork.train = lambda *arguments, **others: train(*arguments, *small, *small_dqn, **others)
exec(block)
graftwork.train = train

from graftwork.training.checkpoint import digest, load_newest
whole = train("actor-critic/cartpole", *small, "steps=700", run_dir="runs/whole")
state, resumed = (load_newest(f"{run}/checkpoints").state for run in (whole.run_dir, "runs/actor-critic-cartpole-0"))
for part in ("learner", "source"):
    assert digest(state[part]) == digest(resumed[part]), part
assert train("dqn/cartpole", "env.id=graftwork.envs.corridor:Corridor-v0", *small, *small_dqn, run_dir="runs/c").step
"""


def keep_modules(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(".py")]


def test_recipes_of_contributing_work_when_followed(tmp_path):
    package = tmp_path / "copy" / "graftwork"
    modules = [name for name in folders() if (ROOT / name / "__init__.py").is_file()]
    for folder in [*modules, "tests/networks"]:
        # Of the folder runs the modules alone: beside them lie runs.
        others = shutil.ignore_patterns("__pycache__") if folder != "runs" else keep_modules
        shutil.copytree(ROOT / folder, package / folder, ignore=others)
    for name in ("__init__.py", "__main__.py", "py.typed", "pyproject.toml"):
        shutil.copy(ROOT / name, package)
    shutil.copy(ROOT / "tests" / "conftest.py", package / "tests")
    follow_edits(package)
    recipes = RECIPES[RECIPES.index("## Add an encoder") :]
    lines = [line for block in blocks(recipes, "sh") for line in block.splitlines()]
    assert len(lines) == 6
    (use,) = (block for block in blocks(recipes, "python") if "gw.train" in block)
    found = subprocess.run(
        [sys.executable, "-P", "-c", FOLLOW],
        cwd=package,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(package.parent), str(package)))},
        input=json.dumps([lines, use, SMALL, SMALL_DQN]),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]


# Commands


def commands(text: str) -> list[str]:
    """`graftwork ...` in shell blocks, a line each, and in running text, without [optional] parts."""
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    found = [line[line.index("graftwork ") :] for line in lines if re.match(r"(\w+=\S+ )*graftwork ", line)]
    return found + [re.sub(r"\[.*?\]", "", code) for code in re.findall(r"`(graftwork [a-z][^`]*)`", prose(text))]


def parse(command: str) -> None:
    words = list(takewhile(lambda word: word not in ("&", ";"), shlex.split(command, comments=True)[1:]))
    words = ["dqn/cartpole" if word == "PRESET" else word for word in words]
    known = typer.main.get_command(app).commands
    assert words[0] in known, f"{command}: no such command"
    if words == words[:1] != ["list"]:  # mentioned in passing
        return
    with known[words[0]].make_context(words[0], words[1:]) as context:
        given = context.params
    if words[0] in ("train", "resume"):
        overrides = given["overrides"] or []
        is_task = any(each.startswith(("epochs=", "task.", "data.")) for each in overrides)
        preset = given.get("preset", "supervised/digits-mlp" if is_task else "dqn/cartpole")
        tree = override(load(preset), overrides)
        if "stages" in tree:
            validate(StagesConfig, tree).resolved(Path("runs"), preset)
        else:
            run_config(tree)


@pytest.mark.parametrize(
    "command",
    # Those of the recipes need what the recipes add, and are run there.
    sorted({command for page, text in PAGES.items() for command in commands(text) if page != "CONTRIBUTING.md"}),
)
def test_command_names_a_real_command_and_real_fields(command):
    parse(command)


@pytest.mark.parametrize(
    "command",
    [
        "graftwork trian dqn/cartpole",
        "graftwork train dqn/cartpole sed=1",
        "graftwork train dqn/cartpole epochs=3",
        "graftwork train supervised/digits-mlp steps=3",
        "graftwork train transfer/digits epochs=3",
        "graftwork train transfer/digits stages.scratch.epoch=3",
        "graftwork resume RUN epoch=3",
    ],
)
def test_check_of_commands_catches_a_wrong_name(command):
    with pytest.raises((AssertionError, ValueError)):
        parse(command)


def test_readme_lists_every_command():
    table = PAGES["README.md"].split("## Command line")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `graftwork (\w+)", table, re.M)) == set(typer.main.get_command(app).commands)


def test_make_targets_are_real():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    used = set()
    for text in PAGES.values():
        code = "\n".join([*blocks(text, "sh"), *re.findall(r"`([^`\n]+)`", prose(text))])
        used |= set(re.findall(r"(?<!\w)make (?:\w+=\S+ )?([a-z-]+)", code))
    assert used
    assert used <= targets


# Links, names, tables

LINKS = sorted(
    (page, target)
    for page, text in PAGES.items()
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text))
    if not target.startswith(("http://", "https://"))
)


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_link_leads_somewhere(page, target):
    name, _, anchor = target.partition("#")
    path = (ROOT / page).parent / name if name else ROOT / page
    assert path.exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
        assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
    named = set(re.findall(r"`((?:\w[\w-]*/)+[\w.-]+\.(?:py|md|yaml|toml))`", prose(PAGES[page])))
    new = {name for name in named if page == "CONTRIBUTING.md" and re.search("fourier|actor.critic|corridor", name)}
    assert not [name for name in named - new if not (ROOT / name).exists()]


def test_types_of_architecture_page_stand_where_it_says():
    rows = re.findall(r"^\| `(\w+)` \| `([\w/]+\.py)` \|", PAGES["docs/architecture.md"], re.M)
    assert len(rows) > 10
    assert not [row for row in rows if not re.search(rf"^(class )?{row[0]}\b", (ROOT / row[1]).read_text(), re.M)]


def test_presets_that_pages_name_exist():
    kinds = "|".join({name.partition("/")[0] for name in presets()})
    named = {name for text in PAGES.values() for name in re.findall(rf"[`\" ]((?:{kinds})/[a-z-]+)[`\" ]", text)}
    assert named
    assert named <= presets().keys()


def test_readme_names_every_encoder_that_a_config_can():
    (said,) = re.findall(r"`agent\.encoder\.kind`[^`]*`task\.encoder\.kind`[^`]*`([a-z ]+)`", PAGES["README.md"])
    kinds = [config().kind for config in get_args(get_args(EncoderConfig)[0])]
    assert sorted(said.split()) == sorted(kinds)


def test_readme_says_how_an_encoder_is_picked_as_the_module_does_that_picks_it():
    rows = re.findall(r"^\| .*$", PAGES["README.md"].split("## Encoders")[1].split("\n## ")[0], re.M)
    assert len(rows) == 7
    assert rows[1:] == re.findall(r"^\| .*$", choose.__doc__, re.M)[1:]


@pytest.mark.parametrize("kind", AGENTS)
def test_table_of_agent_page_is_its_config(kind):
    model, page = AGENTS[kind], PAGES[f"docs/agents/{kind}.md"]
    table = page.split("## Configuration")[1]
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", table, re.M))
    assert list(rows) == list(model.model_fields)
    for name, default in rows.items():
        said = model.model_validate({name: parse_argument(default, name)})
        assert getattr(said, name) == getattr(model(), name), name


@pytest.mark.parametrize("kind", AGENTS)
def test_agent_page_names_every_metric(small_budget, kind):
    run = gw.train(f"{kind}/cartpole")
    rows = [json.loads(line) for line in (run.run_dir / "metrics.jsonl").read_text().splitlines()]
    logged = {name for row in rows for name in row if name.startswith("train/")}
    assert set(re.findall(r"`(train/\w+)`", PAGES[f"docs/agents/{kind}.md"])) == logged


def folders() -> set[str]:
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line.endswith("/")]
    names = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    return {name for name in names if not any(fnmatch(name, pattern) for pattern in ignored)}


def test_map_of_readme_is_the_tree():
    (tree,) = blocks(PAGES["README.md"].split("## Map")[1], "text")
    assert set(re.findall(r"^(\w+)/", tree, re.M)) == folders()


@pytest.mark.parametrize("name", ["README.md", "docs/architecture.md"])
def test_layers_are_listed_in_the_order_that_imports_follow(name):
    heading = {"README.md": "## Map", "docs/architecture.md": "## Layers"}[name]
    listed = re.findall(r"^(\w+)\b", blocks(PAGES[name].split(heading)[1], "text")[0], re.M)
    contracts = (ROOT / "pyproject.toml").read_text().split("layers = [")[1].split("]")[0]
    layers = [layer.split(" | ") for layer in re.findall(r'"([^"]+)"', contracts)]
    rank = {member: number for number, layer in enumerate(layers) for member in layer}
    ranks = [rank[member] for member in listed if member in rank]
    assert ranks
    assert ranks == sorted(ranks)
