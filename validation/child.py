"""The process of one training run: python -m graftwork.validation.child DIRECTORY, which has a job.json."""

import ctypes
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(directory: Path) -> int:
    """Train and write result.json; 1 and one line on stderr if that cannot be, 128 and more after a signal."""
    if sys.platform == "linux":  # whoever started this may be killed without a word
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    from ..envs import EnvironmentFailure
    from . import baseline, ours
    from .job import RESULT, Result, machine, read_job, versions
    from .record import write_whole

    try:
        job = read_job(directory)
        trained = ours.train(job, directory) if job.arguments is None else baseline.train(job)
        result = Result(job=job, trained=trained, versions=versions(), machine=machine())
        write_whole(directory / RESULT, result.model_dump_json(indent=1) + "\n")
    except ours.Signalled as stop:
        return 128 + stop.number
    except (ValueError, OSError, EnvironmentFailure) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
