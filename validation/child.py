"""The process of one training run: python -m graftwork.validation.child DIRECTORY PARENT.

The directory has a job.json; PARENT is the number of the process that started this one.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(directory: Path, parent: int) -> int:
    """Train and write result.json; 1 and one line on stderr if that cannot be, 128 and more after a signal."""
    if sys.platform == "linux":  # whoever started this may be killed without a word
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was, before this process asked to be told
            return 128 + signal.SIGTERM
    from ..envs import EnvironmentFailure
    from ..training.durable import write_text
    from . import baseline, ours
    from .job import RESULT, Result, hardware, read_job, versions

    try:
        job = read_job(directory)
        trained = ours.train(job, directory) if job.arguments is None else baseline.train(job)
        result = Result(job=job, trained=trained, versions=versions(job.config), machine=hardware())
        write_text(directory / RESULT, result.model_dump_json(indent=1) + "\n")
    except ours.Signalled as stop:
        return 128 + stop.number
    except (ValueError, OSError, EnvironmentFailure) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
