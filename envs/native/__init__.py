"""Environments as tensors, for any device: the games, and what steps them."""

from .base import Live, NativeEnvs, Row, Simulation
from .game import Game
from .games import GAMES, make_game
from .vector import register

__all__ = ["GAMES", "Game", "Live", "NativeEnvs", "Row", "Simulation", "make_game", "register"]
