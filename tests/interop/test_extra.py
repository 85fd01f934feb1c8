import sys

import pytest

from graftwork.interop.extra import stable_baselines3


def test_library_is_the_one_installed():
    import stable_baselines3 as installed

    assert stable_baselines3() is installed


def test_missing_library_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(ValueError, match=r"^stable-baselines3 is not installed: pip install 'graftwork\[sb3\]'$"):
        stable_baselines3()


def test_what_an_installed_library_lacks_is_not_hidden(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "stable_baselines3"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ModuleNotFoundError, match="gymnasium"):
        stable_baselines3()
