"""Weak scaling on one machine: ranks that train one policy, against as many processes that train one each.

    python benchmarks/scaling.py --ranks 1 2 4
    python benchmarks/scaling.py --ranks 2 --minibatch 1024   # fewer sums: a quarter as many
    python benchmarks/scaling.py --sums     # microseconds of one sum over two ranks: shared memory and gloo

Each rank has the same work whatever their number: its environments, and its part of each minibatch. Efficiency is the
steps per second of all ranks together by those of as many independent processes, so what the cores, caches and memory
of the machine take is in both, and what is left is the price of training together. All are started, and then take turns
of a few seconds (`taking_turns.py`), so that what the machine's speed does is in both, too; the error is that of the
mean of the turns. `waiting` is the share of its time that rank 0 waits in sums over ranks. It then fits a cost model to
the collectives measured here, compares it with what was measured, and writes it down for up to 1,024 ranks on the
network that --latency and --bandwidth describe.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from taking_turns import Diary, Group, ratio, take_turns

ENVIRONMENTS, LENGTH = 8, 256  # of each rank
SETTINGS = {"backend": "gymnasium", "rollout_length": LENGTH, "episodes": 1, "progress": "quiet", "seed": 1}
MODEL = (2, 4, 8, 16, 64, 256, 1024)


def work(task, folder, group, number, minibatch):
    """Train until the comparison is over, and tell what it took; started once for each rank."""
    import torch

    import proximo
    from proximo.scale.meeting import current_mesh

    mesh = current_mesh()
    size = mesh.size
    trainer = proximo.Trainer(
        task,
        environments=ENVIRONMENTS * size,
        # No update is cut short: each iteration has the same work, in all runs.
        update={"minibatch_size": minibatch * size, "epochs": 10, "target_kl": None},
        normalizers={"observations": True, "rewards": "scale"},
        steps=10**9,
        run=mesh.of_the_first(lambda: tempfile.mkdtemp(dir=folder)) + "/run",  # of its own: nothing is resumed
        **SETTINGS,
    )
    diary, rows, waited = Diary(folder, f"{group}.{number + mesh.rank}"), [], _timed(mesh)
    for row in trainer:
        # What all ranks did is rank 0's to tell.
        over = diary.note(row["step"] if mesh.first else 0)
        rows.append((row["gradient_steps"], mesh.traffic))
        if mesh.any(over):
            break
    iterations = len(rows) - 1
    diary.close(
        waited=waited,
        bytes=(rows[-1][1] - rows[0][1]) / iterations,
        gradient_steps=sum(steps for steps, _ in rows[1:]) / iterations,
        parameters=trainer._training.optimizer.flat.numel(),
        collective=_collective(mesh, torch.zeros(trainer._training.optimizer.shared.numel())),
    )


def _timed(mesh):
    """When each exchange with the other ranks of this machine began and ended, as they come."""
    waited = []
    if mesh.size > 1:
        exchange = mesh._neighbours.exchange

        def timed(x, what):
            began = time.monotonic()
            found = exchange(x, what)
            waited.append((began, time.monotonic()))
            return found

        mesh._neighbours.exchange = timed
    return waited


def _collective(mesh, x, count=300):
    """Seconds of one sum over ranks of the gradient's size."""
    mesh.barrier()
    started = time.perf_counter()
    for _ in range(count):
        mesh.sum_across_ranks(x)
    return (time.perf_counter() - started) / count


def single_sums(numbers, count=400):
    """Print what one sum over ranks takes, by each way; alone, and between two pieces of work as minibatches are."""
    import torch

    from proximo.scale.meeting import current_mesh

    torch.set_num_threads(1)
    mesh, x, a = current_mesh(), torch.zeros(numbers), torch.randn(400, 400)
    shared = mesh._neighbours
    for name, way in (("shared memory", shared), ("gloo", None)):
        for between, products in (("nothing else", 0), ("minibatches of some ms", 1)):
            seen = []
            for _ in range(count):
                for _ in range(products):
                    a @ a
                mesh._neighbours = shared
                mesh.barrier()  # so that no rank waits for another's work; gloo's threads sleep meanwhile
                mesh._neighbours = way
                began = time.perf_counter()
                mesh.sum_across_ranks(x)
                seen.append(time.perf_counter() - began)
            low, middle = (1e6 * sorted(seen)[count * share // 100] for share in (10, 50))
            if mesh.first:
                told = f"{4 * numbers:,} bytes by {name}, between {between}: {middle:,.0f} us, a tenth below {low:,.0f}"
                print(told, flush=True)


def begun(folder, name, ranks, together, *asked):
    """A group of `ranks` processes: ranks of one training, or each for itself."""
    task, minibatch = asked
    script = [__file__, "--work", task, folder, name]
    if together and ranks > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        commands = [[sys.executable, *launch, *script, "0", str(minibatch)]]
    else:
        commands = [[sys.executable, *script, str(i), str(minibatch)] for i in range(ranks)]
    return Group(folder, name, commands, [f"{name}.{i}" for i in range(ranks)])


def measured(ranks, turns, seconds, *asked):
    """Rates of one process alone, of `ranks` processes apart and of as many ranks together, which took turns."""
    with tempfile.TemporaryDirectory() as folder:
        groups = [
            begun(folder, "alone", 1, False, *asked),
            begun(folder, "apart", ranks, False, *asked),
            begun(folder, "together", ranks, True, *asked),
        ]
        take_turns(groups, turns, seconds)
    alone, apart, together = groups
    first, steps = together.told[0], ENVIRONMENTS * LENGTH
    waited = np.array(first["waited"]).reshape(-1, 2)
    efficiency, error = ratio(together, apart)
    return {
        "ranks": ranks,
        "together": together.rates().mean(),
        "apart": apart.rates().mean(),
        "efficiency": efficiency,
        "error": error,
        "alone": steps / alone.rates().mean(),  # seconds of an iteration
        "iteration": steps * ranks / together.rates().mean(),
        "waiting": np.diff(together.own_time(waited)).sum() / together.own_time(together.turns[-1][1]),
        **{name: first[name] for name in ("bytes", "gradient_steps", "parameters", "collective")},
    }


def model(ranks, local, bytes_of_a_sum, sums, latency, bandwidth):
    """Seconds of an iteration: what a rank does alone, and `sums` ring or tree sums (Thakur et al. 2005, section 4.4):
    2 log2(R) messages one after the other, and 2 (R - 1) / R of the bytes through each link.
    """
    if ranks == 1:
        return local
    return local + sums * (2 * math.log2(ranks) * latency + 2 * (ranks - 1) / ranks * bytes_of_a_sum / bandwidth)


def line(row, cores):
    """One line of the table."""
    contended = row["alone"] * max(1.0, row["ranks"] / cores)
    modelled = contended + (row["gradient_steps"] * row["collective"] if row["ranks"] > 1 else 0.0)
    return (
        f"| {row['ranks']} | {row['together']:,.0f} | {row['apart']:,.0f} "
        f"| {row['efficiency']:.2f} ± {row['error']:.2f} | {row['waiting']:.1%} | {row['bytes']:,.0f} "
        f"| {row['collective'] * 1e6:,.0f} us | {modelled / row['iteration']:.2f} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", nargs=5)
    parser.add_argument("--sums", action="store_true", help="measure single sums over two ranks, and nothing else")
    parser.add_argument("--numbers", type=int, default=11_000, help="float32 of one sum: those of HalfCheetah's policy")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=4, help="of a turn")
    parser.add_argument("--task", default="HalfCheetah-v5")
    parser.add_argument("--minibatch", type=int, default=256, help="samples of each rank in one step")
    parser.add_argument("--latency", type=float, default=20e-6, help="seconds of one message between machines")
    parser.add_argument("--bandwidth", type=float, default=12.5e9, help="bytes per second of a link (100 Gbit/s)")
    given = parser.parse_args()
    from proximo.scale.cpus import available_cpus

    if given.work:
        task, folder, group, number, minibatch = given.work
        work(task, folder, group, int(number), int(minibatch))
        return
    if given.sums:
        if "RANK" in os.environ:
            single_sums(given.numbers)
        else:
            launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, "--sums"]
            command = [sys.executable, *launch, "--numbers", str(given.numbers)]
            subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
        return
    print(f"{given.task}: each rank {ENVIRONMENTS} environments x {LENGTH} steps, {given.minibatch} of a minibatch; "
          f"{given.turns} turns of {given.seconds:g} s")  # fmt: skip
    print(
        "| ranks | steps/s together | apart | efficiency | waiting | bytes of an update | one sum | model / measured |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for ranks in given.ranks:
        row = measured(ranks, given.turns, given.seconds, given.task, given.minibatch)
        print(line(row, available_cpus()), flush=True)
    one = row["alone"]
    size, sums = 4 * row["parameters"], row["gradient_steps"]
    print(f"model: {sums:.0f} sums of {size:,} bytes in an iteration of {one:.2f} s, {given.latency * 1e6:g} us, "
          f"{given.bandwidth / 1e9:g} GB/s")  # fmt: skip
    for ranks in MODEL:
        print(
            f"  {ranks:>5} ranks: efficiency {one / model(ranks, one, size, sums, given.latency, given.bandwidth):.3f}"
        )


if __name__ == "__main__":
    main()
