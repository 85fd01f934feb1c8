"""What every test shares: one thread, no window, a cache of its own, and examples that are the same on every run."""

import os
import tempfile

# Before torch or pygame is imported, here and in child processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("GRAFTWORK_CACHE", tempfile.mkdtemp(prefix="graftwork-cache-"))

from hypothesis import settings

settings.register_profile("graftwork", deadline=None, derandomize=True, database=None)
settings.load_profile("graftwork")
