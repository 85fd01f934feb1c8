"""Environments as tensors, for any device: the games, and what steps them."""

from .base import Function, Live, NativeEnvs, Row, Simulation, as_it_is
from .game import Game
from .games import GAMES, make_game
from .vector import register

__all__ = ["GAMES", "Function", "Game", "Live", "NativeEnvs", "Row", "Simulation", "as_it_is", "make_game", "register"]
