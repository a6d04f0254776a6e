"""What is asked of a model once, also where several trainings miss it at the same moment."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

from domainwright.core.lock import LOCK, lock, turn
from domainwright.train.lessons import kept_artifact


def test_of_several_that_miss_it_one_makes_it(tmp_path):
    made = []

    def fill(out):
        made.append(out)
        time.sleep(0.2)
        (out / "said.txt").write_text("yes")

    with ThreadPoolExecutor(4) as threads:
        asked = tmp_path / "lessons", {"a": "b"}, fill
        each = [threads.submit(kept_artifact, *asked) for _ in range(4)]
        found = {future.result() for future in each}
    assert len(made) == len(found) == 1
    ((place, _),) = found
    assert (place / "said.txt").read_text() == "yes"


def test_a_turn_comes_when_the_other_process_is_gone(tmp_path):
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        with lock(tmp_path):
            os.write(writes, b"held")
            time.sleep(0.5)
            os._exit(0)
    os.read(reads, 4)
    begun = time.monotonic()
    with turn(tmp_path / LOCK):
        assert time.monotonic() - begun > 0.3
    os.waitpid(child, 0)
