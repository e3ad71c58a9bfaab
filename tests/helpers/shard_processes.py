"""Three processes that predict an archive, one of them killed: ``python -m helpers.shard_processes ARCHIVE OUT``.

They are forks of a process that has imported the libraries, so they start at once. It waits for a line on its input
before the killed one is started again, and prints the names of the images that each call predicted.
"""

import os
import signal
import sys
from pathlib import Path
from unittest import mock

from harveyseg.prediction import predict
from harveyseg.prediction.record import PredictionRecord, write_record
from harveyseg.prediction.shard import Shard
from harveyseg.prediction.trained_ensemble import TrainedEnsemble
from helpers.predicting import FLOODED, PARAMS, sure

ENSEMBLE = TrainedEnsemble((sure(FLOODED, 0.5),), (1.0,))
SHARDS = 3
KILLED = 2


def predict_archive(archive: Path, out: Path, shard: Shard | None = None) -> list[str]:
    """The names of the images that were predicted."""
    options = predict.PredictionOptions(shard=shard)
    outcome = predict.predict_images([str(archive)], ENSEMBLE, PARAMS, out, options)
    return [record.name for record in outcome.predicted]


def kill_before_record(number: int) -> None:
    """Kill this process when it is about to write its record of this number, and all else of that image is there."""
    written: list[str] = []

    def write(folder: Path, record: PredictionRecord) -> None:
        written.append(record.name)
        if len(written) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        write_record(folder, record)

    mock.patch.object(predict, "write_record", write).start()


def start(archive: Path, out: Path, number: int, killed: bool = False) -> int:
    pid = os.fork()
    if not pid:
        if killed:
            kill_before_record(2)
        print(*predict_archive(archive, out, Shard(number, SHARDS)), flush=True)
        os._exit(0)
    return pid


def end(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(archive: Path, out: Path) -> None:
    numbers = range(1, SHARDS + 1)
    started = [start(archive, out, number, killed=number == KILLED) for number in numbers]
    assert [end(pid) for pid in started] == [-signal.SIGKILL if number == KILLED else 0 for number in numbers]
    print("killed", flush=True)
    sys.stdin.readline()
    assert end(start(archive, out, KILLED)) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
