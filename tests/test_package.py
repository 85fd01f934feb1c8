"""What holds of every file of the package, and of how it is packaged."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NOT_PACKAGED = {"tests", "benchmarks", "examples", "docs", "build", "dist"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def package_files() -> list[Path]:
    def walk(folder: Path) -> Iterator[Path]:
        for entry in sorted(folder.iterdir()):
            if entry.is_file() and entry.suffix == ".py":
                yield entry
            elif (
                entry.is_dir()
                and not entry.name.startswith(".")
                and entry.relative_to(ROOT).parts[0] not in NOT_PACKAGED
            ):
                yield from walk(entry)

    return list(walk(ROOT))


FILES = {str(path.relative_to(ROOT)): path for path in package_files()}

# Whatever can run code from a file: `eval` as a method, as of modules, is another thing.
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_NAMES = {
    *("eval", "exec", "builtins.eval", "builtins.exec"),
    *("torch.load", "torch.serialization.load", "torch.hub.load", "torch.package"),
    *(f"yaml.{kind}load{all_}" for kind in ("", "full_", "unsafe_") for all_ in ("", "_all")),
    *("yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader", "yaml.CLoader"),
}


def forbidden(source: str) -> list[str]:
    """What a module does that the package must not, aliases followed."""
    nodes = list(ast.walk(ast.parse(source)))
    meaning: dict[str, str] = {}
    imported = []
    for node in nodes:
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
            meaning |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
            meaning |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def dotted(node: ast.AST) -> str:
        if isinstance(node, ast.Attribute):
            return f"{dotted(node.value)}.{node.attr}"
        return meaning.get(node.id, node.id) if isinstance(node, ast.Name) else "?"

    used = [dotted(node) for node in nodes if isinstance(node, ast.Name | ast.Attribute)]
    named = [  # import_module("pickle")
        str(node.args[0].value)
        for node in nodes
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
        if dotted(node.func) in ("__import__", "importlib.import_module")
    ]
    unpickling = ["allow_pickle" for node in nodes if isinstance(node, ast.keyword) and node.arg == "allow_pickle"]
    modules = [name for name in imported + named if name.partition(".")[0] in FORBIDDEN_MODULES]
    return modules + unpickling + [name for name in imported + used if name in FORBIDDEN_NAMES]


@pytest.mark.parametrize("name", FILES)
def test_file_can_run_no_code_from_data(name):
    assert forbidden(FILES[name].read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, pickle as p",
        "from pickle import loads",
        "import cloudpickle",
        "import marshal",
        "def f():\n    import shelve",
        "import torch\ntorch.load('x', weights_only=True)",
        "import torch as t\nt.load('x')",
        "from torch import load",
        "from torch import load as read",
        "from torch import serialization as s\ns.load('x')",
        "eval('1')",
        "map(eval, x)",
        "exec('1')",
        "import builtins\nbuiltins.eval('1')",
        "import yaml\nyaml.load(x, Loader=yaml.SafeLoader)",
        "import yaml as y\ny.unsafe_load(x)",
        "from yaml import full_load",
        "import yaml\nyaml.load_all(x)",
        "import importlib\nimportlib.import_module('pickle')",
        "from importlib import import_module\nimport_module('dill')",
        "__import__('pickle')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
    ],
)
def test_check_catches(source):
    assert forbidden(source)


def test_check_allows_what_only_looks_alike():
    assert (
        forbidden("network.eval()\nself.load(x)\nyaml.safe_load(x)\nyaml.dump(x)\nmodel.exec = 1\nimport torch") == []
    )
    assert forbidden("from .pickle import x\nfrom safetensors.torch import load\nload(x)") == []


@pytest.mark.parametrize("name", FILES)
def test_file_imports_the_package_relatively(name):
    imports = [
        node for node in ast.walk(ast.parse(FILES[name].read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    absolute = {node.module or "" for node in imports if isinstance(node, ast.ImportFrom) and not node.level}
    absolute |= {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    assert not {name for name in absolute if name.partition(".")[0] == "graftwork"}


@pytest.mark.parametrize("name", FILES)
def test_file_says_what_it_is(name):
    module = ast.parse(FILES[name].read_text())
    assert not module.body or ast.get_docstring(module), "a module starts with a docstring"


def test_import_leaves_heavy_and_optional_modules_alone():
    heavy = ["wandb", "matplotlib", "stable_baselines3", "tensorboard", "sklearn", "torchvision"]
    # Every public name too, which brings in what the package itself puts off.
    names = "[getattr(graftwork, name) for name in graftwork.__all__]"
    code = f"import sys, graftwork; {names}; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() == "[]"


def test_every_folder_of_modules_is_packaged():
    folders = {Path(name).parent for name in FILES}
    assert {".".join(["graftwork", *folder.parts]) for folder in folders} == set(
        PROJECT["tool"]["setuptools"]["packages"]
    )
    assert not [folder for folder in folders if not (ROOT / folder / "__init__.py").is_file()]


def test_constraints_pin_every_dependency_to_an_allowed_version():
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = [
        Requirement(line)
        for line in [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]
    ]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    for requirement in wanted:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
    assert pins["torch"] == "2.13.0"
