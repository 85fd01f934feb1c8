"""What a run has no use for is not imported: the time to its first step, and most of its memory, hang on that."""

import gc
import subprocess
import sys

import pytest
import torch

from graftwork.__main__ import _without_collections

IDLE = (
    *("cv2", "matplotlib", "pandas", "PIL", "pygame", "rich", "scipy", "sklearn"),
    *("sympy", "torch._dynamo", "torch._inductor"),  # torch.compile, which even torch's optimizers import
    *("ale_py", "stable_baselines3", "tensorboard", "torchvision", "wandb"),
    *("graftwork.interop", "graftwork.reports", "graftwork.validation.page", "graftwork.validation.returns"),
)

# Long enough that both acting and updates are recorded.
TRAIN = """
import sys
from graftwork.__main__ import main
overrides = ["steps=400", "agent.learning_starts=100", "agent.train_period=8", "agent.updates=8"]
overrides += ["evaluation.episodes=1", "run_dir=" + sys.argv[1]]
status = main(["train", "dqn/cartpole", *overrides])
print(*sys.modules)
sys.exit(status)
"""

IMPORT = """
import gc, sys
from graftwork import __main__ as cli
counts = []
gc.callbacks.append(lambda phase, info: counts.append("torch" in sys.modules))
with cli._without_collections():
    from graftwork import runs
print(sum(counts), gc.isenabled(), gc.get_freeze_count() > 100_000)
"""


def output(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """That a short run from the command line has imported by its end."""
    return set(output(TRAIN, str(tmp_path_factory.mktemp("start") / "run")).splitlines()[-1].split())


@pytest.mark.parametrize("name", IDLE)
def test_training_does_not_import(name, modules):
    assert "torch" in modules
    assert name not in modules


def test_torch_is_imported_without_a_collection_of_garbage():
    assert output(IMPORT).split() == ["0", "True", "True"]


def test_collections_of_another_program_are_left_alone():
    assert torch.__name__ in sys.modules  # imported by another: this one
    before = gc.get_freeze_count()
    with _without_collections():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before
