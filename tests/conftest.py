"""What every test shares: one thread, no window, and examples that are the same on every run."""

import os

# Before torch or pygame is imported, here and in child processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "Agg")

from hypothesis import settings

settings.register_profile("graftwork", deadline=None, derandomize=True, database=None)
settings.load_profile("graftwork")
