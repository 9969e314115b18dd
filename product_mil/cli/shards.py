"""Which share of the work a process does: `--shard K --of N`, or what SLURM or Kubernetes say."""

from collections.abc import Mapping
from typing import NamedTuple

from product_mil.cli.parser import CommandParser
from product_mil.errors import UserError


class Shard(NamedTuple):
    """The share number `k`, from 0, of `n` equal ones."""

    k: int = 0
    n: int = 1


def add_shard_flags(parser: CommandParser) -> None:
    """`--shard` and `--of`."""
    parser.add_argument("--shard", type=int, metavar="K", help="this share alone, from 0")
    parser.add_argument("--of", type=int, metavar="N", help="of N (default: as a job array says)")


def shard_of(index: int | None, count: int | None, environment: Mapping[str, str]) -> Shard:
    """The share by the flags, else by the variables of SLURM's job arrays or Kubernetes' jobs.

    Kubernetes does not tell a job how many there are, so `count` has to.

    Raises:
        UserError: one of the two numbers is missing or out of its bounds.
    """
    job = environment.get("JOB_COMPLETION_INDEX", "")
    if index is None and count is None and "SLURM_ARRAY_TASK_ID" in environment:
        return _of_slurm(environment)
    if index is None and job.isdecimal():
        index = int(job)
        if count is None:
            raise UserError("JOB_COMPLETION_INDEX: this does not say of how many, so give --of N")
    if index is None and count is None:
        return Shard()
    if index is None or count is None:
        raise UserError("--shard K and --of N: give both")
    if not 0 <= index < count:
        raise UserError(f"--shard {index} --of {count}: K must be from 0 to N - 1")
    return Shard(index, count)


def _of_slurm(environment: Mapping[str, str]) -> Shard:
    """The share of a task of an array, whose numbers may begin anywhere and have a step."""
    task, least, step, count = (
        int(environment.get(f"SLURM_ARRAY_TASK_{name}", default))
        for name, default in (("ID", "0"), ("MIN", "0"), ("STEP", "1"), ("COUNT", "0"))
    )
    index, rest = divmod(task - least, step)
    if rest or not 0 <= index < count:
        raise UserError(
            f"SLURM_ARRAY_TASK_ID={task}: its array is not from MIN in equal steps to MAX: give "
            "--shard and --of"
        )
    return Shard(index, count)
