import pytest

from product_mil.cli.shards import Shard, shard_of
from product_mil.errors import UserError


def slurm(task: int, least: int, step: int, count: int) -> dict[str, str]:
    numbers = {"ID": task, "MIN": least, "STEP": step, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(number) for name, number in numbers.items()}


KUBERNETES = {"JOB_COMPLETION_INDEX": "2"}


@pytest.mark.parametrize(
    ("k", "n", "environment", "wanted"),
    [
        (None, None, {}, (0, 1)),
        (3, 4, {}, (3, 4)),
        (None, None, slurm(5, 5, 1, 10), (0, 10)),
        (None, None, slurm(14, 5, 1, 10), (9, 10)),
        (None, None, slurm(7, 1, 3, 4), (2, 4)),
        (0, 2, slurm(7, 1, 3, 4), (0, 2)),  # what is said counts
        (None, 5, KUBERNETES, (2, 5)),
        (1, 5, KUBERNETES, (1, 5)),
    ],
)
def test_the_share(
    k: int | None, n: int | None, environment: dict[str, str], wanted: tuple[int, int]
) -> None:
    assert shard_of(k, n, environment) == Shard(*wanted)


@pytest.mark.parametrize(
    ("k", "n", "environment", "message"),
    [
        (1, None, {}, "give both"),
        (None, 4, {}, "give both"),
        (None, 4, slurm(1, 0, 1, 4), "give both"),
        (4, 4, {}, "K must be from 0 to N - 1"),
        (-1, 4, {}, "K must be from 0 to N - 1"),
        (0, 0, {}, "K must be from 0 to N - 1"),
        (None, None, KUBERNETES, "give --of N"),
        (None, 2, KUBERNETES, "K must be from 0"),
        (None, None, slurm(6, 1, 1, 3), "its array is not from MIN in equal steps"),  # 1,5,6
        (None, None, slurm(6, 1, 2, 3), "its array is not from MIN in equal steps"),
    ],
)
def test_shares_that_there_are_not(
    k: int | None, n: int | None, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        shard_of(k, n, environment)
