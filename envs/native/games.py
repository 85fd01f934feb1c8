"""The native games by id."""

from collections.abc import Mapping

from pydantic import JsonValue

from ...configs import ConfigError, validate
from .acrobot import Acrobot
from .breakout import Breakout, FullBreakout
from .cartpole import CartPole
from .game import Game
from .mountain_car import MountainCar

GAMES: dict[str, type[Game]] = {game.env_id: game for game in (Acrobot, CartPole, Breakout, FullBreakout, MountainCar)}


def make_game(env_id: str, kwargs: Mapping[str, JsonValue]) -> Game:
    """The game of that id, one of GAMES; ValueError names an argument that it does not take."""
    game = GAMES[env_id]
    if kwargs and not game.model_fields:
        raise ValueError(f"env.kwargs={dict(kwargs)}: env.id={env_id} takes none")
    try:
        return validate(game, dict(kwargs))
    except ConfigError as error:
        raise ValueError(f"env.kwargs.{error} (of env.id={env_id})") from error
