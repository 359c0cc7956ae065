"""Weak scaling on one machine: ranks that train one policy, against as many processes that train one each.

    python benchmarks/scaling.py --ranks 1 2 4 --repeats 3
    python benchmarks/scaling.py --ranks 2 --minibatch 1024   # fewer sums: a quarter as many
    python benchmarks/scaling.py --sums     # microseconds of one sum over two ranks: shared memory and gloo

Each rank has the same work whatever their number: its environments, and its part of each minibatch. Efficiency is the
steps per second of all ranks together by those of as many independent processes at the same time, so what the cores,
caches and memory of the machine take is in both, and what is left is the price of training together. Where the speed of
the machine changes between the two it is any number; so the share of its time that rank 0 waits for the others is
measured within a run, too: the least of the repeats. It then fits a cost model to the collectives measured here,
compares it with what was measured, and writes it down for up to 1,024 ranks on the
network that --latency and --bandwidth describe.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time

ENVIRONMENTS, LENGTH = 8, 256  # of each rank
SETTINGS = {"backend": "gymnasium", "rollout_length": LENGTH, "episodes": 1, "progress": "quiet", "seed": 1}
MODEL = (2, 4, 8, 16, 64, 256, 1024)


def work(task, seconds, folder, minibatch):
    """Train for so long and print what it took; started once for each rank."""
    import torch

    import proximo
    from proximo.scale.mesh import current_mesh

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
    started, waited = None, _timed(mesh)
    for row in trainer:
        now = time.perf_counter()
        if started is None:
            started, first, traffic, iterations, steps = now, row["step"], mesh.traffic, 0, 0
            waited.clear()
            continue
        iterations, steps = iterations + 1, steps + row["gradient_steps"]
        if mesh.any(now - started > seconds):
            break
    took = time.perf_counter() - started
    told = {
        "rate": (row["step"] - first) / took,
        "bytes": (mesh.traffic - traffic) / iterations,
        "iteration": took / iterations,
        "waiting": sum(waited) / took,
        "gradient_steps": steps / iterations,
        "parameters": trainer._training.optimizer.flat.numel(),
        "collective": _collective(mesh, torch.zeros(trainer._training.optimizer.shared.numel())),
    }
    if mesh.first:
        print(json.dumps(told), flush=True)


def _timed(mesh):
    """Seconds of each exchange with the other ranks of this machine, as they come: what training together takes."""
    waited = []
    if mesh.size > 1:
        exchange = mesh._neighbours.exchange

        def timed(x, what):
            began = time.perf_counter()
            found = exchange(x, what)
            waited.append(time.perf_counter() - began)
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

    from proximo.scale.mesh import current_mesh

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


def started(ranks, together, *asked):
    """What `ranks` processes measured: together, or each for itself at the same time."""
    script = [__file__, "--work", *map(str, asked)]
    if together and ranks > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        commands = [[sys.executable, *launch, *script]]
    else:
        commands = [[sys.executable, *script]] * ranks
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}  # MuJoCo warns for each environment
    processes = [subprocess.Popen(c, env=environment, **quiet) for c in commands]
    return [json.loads(p.communicate()[0].strip().splitlines()[-1]) for p in processes]


def model(ranks, local, bytes_of_a_sum, sums, latency, bandwidth):
    """Seconds of an iteration: what a rank does alone, and `sums` ring or tree sums (Thakur et al. 2005, section 4.4):
    2 log2(R) messages one after the other, and 2 (R - 1) / R of the bytes through each link.
    """
    if ranks == 1:
        return local
    return local + sums * (2 * math.log2(ranks) * latency + 2 * (ranks - 1) / ranks * bytes_of_a_sum / bandwidth)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", nargs=4)
    parser.add_argument("--sums", action="store_true", help="measure single sums over two ranks, and nothing else")
    parser.add_argument("--numbers", type=int, default=11_000, help="float32 of one sum: those of HalfCheetah's policy")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--task", default="HalfCheetah-v5")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--minibatch", type=int, default=256, help="samples of each rank in one step")
    parser.add_argument("--latency", type=float, default=20e-6, help="seconds of one message between machines")
    parser.add_argument("--bandwidth", type=float, default=12.5e9, help="bytes per second of a link (100 Gbit/s)")
    given = parser.parse_args()
    from proximo.scale.cpus import available_cpus

    if given.work:
        task, seconds, folder, minibatch = given.work
        work(task, float(seconds), folder, int(minibatch))
        return
    if given.sums:
        if "RANK" in os.environ:
            single_sums(given.numbers)
        else:
            launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, "--sums"]
            command = [sys.executable, *launch, "--numbers", str(given.numbers)]
            subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
        return
    seen = {}
    with tempfile.TemporaryDirectory() as folder:
        asked = given.task, given.seconds, folder, given.minibatch
        for _ in range(given.repeats):  # in turn, so that what else the machine does is in all of them
            for ranks in sorted({1, *given.ranks}):  # one rank too: what it does alone is in the model
                alone = sum(x["rate"] for x in started(ranks, False, *asked))
                one = started(ranks, True, *asked)[0]
                seen.setdefault(ranks, []).append((alone, one))
                print(f"  {ranks} ranks: {one['rate']:,.0f} steps/s together, {alone:,.0f} apart", file=sys.stderr)
    # The best of the repeats: what others do on the machine only ever takes away.
    one = min(x["iteration"] for _, x in seen[1])
    print(f"{given.task}: each rank {ENVIRONMENTS} environments x {LENGTH} steps, {given.minibatch} of a minibatch")
    print(
        "| ranks | steps/s together | apart | efficiency | waiting | bytes of an update | one sum | model / measured |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for ranks, rows in seen.items():
        together, apart = max(x["rate"] for _, x in rows), max(a for a, _ in rows)
        last = rows[-1][1]
        each = min(x["collective"] for _, x in rows)
        contended = one * max(1.0, ranks / available_cpus())
        modelled = contended + (last["gradient_steps"] * each if ranks > 1 else 0.0)
        measured = min(x["iteration"] for _, x in rows)
        waiting = min(x["waiting"] for _, x in rows)
        print(
            f"| {ranks} | {together:,.0f} | {apart:,.0f} | {together / apart:.2f} | {waiting:.1%} | "
            f"{last['bytes']:,.0f} | {each * 1e6:,.0f} us | {modelled / measured:.2f} |"
        )
    size, sums = 4 * last["parameters"], last["gradient_steps"]
    print(f"model: {sums:.0f} sums of {size:,} bytes in an iteration of {one:.2f} s, {given.latency * 1e6:g} us, "
          f"{given.bandwidth / 1e9:g} GB/s")  # fmt: skip
    for ranks in MODEL:
        print(
            f"  {ranks:>5} ranks: efficiency {one / model(ranks, one, size, sums, given.latency, given.bandwidth):.3f}"
        )


if __name__ == "__main__":
    main()
