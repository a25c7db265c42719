"""Kill a training run at random moments, resume it, and compare every byte with an uninterrupted run.

    python tests/training/kill_sweep.py --kills 200

A small stochastic net is trained with everything that has state: Adam with amsgrad, a schedule, a learned baseline. It
saves at every few steps, so that many kills fall into a save. Each trial is killed and resumed until it ends by itself.
Children are forked from this process, which has imported torch but run nothing in parallel: a fork takes milliseconds.
Prints one JSON line; exit code 1 if anything differed.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from dither import noise
from dither.training.interrupt import Interrupted
from dither.training.loop import fit
from dither.training.run_folder import RunFolder


class Bits(nn.Module):
    """Straight-through bits from keyed noise: a node in ten lines, with the seeding of the real ones."""

    def forward(self, logits):
        p = torch.sigmoid(logits)
        sample = torch.zeros((), dtype=torch.int64)
        u = noise.uniform(noise.draw_seed(), 0, sample, tuple(p.shape), p)
        return (u < p).to(p) + p - p.detach()


class Baseline(nn.Module):
    """An estimator with state of its own: a learned parameter, a moving average, and a call counter."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, closure):
        costs = closure()
        self.mean.lerp_(costs.detach().mean(), 0.1)
        self.calls += 1
        return costs.mean() + (costs.detach() - self.level).square().mean() + 0.01 * self.mean * self.level


def build(seed=0):
    """The arguments of `fit` for a run of 6 epochs of 9 steps, the last one of each smaller."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(130, 6, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 12), Bits(), nn.Linear(12, 2))
    estimator = Baseline()
    optimizer = torch.optim.Adam([*model.parameters(), *estimator.parameters()], lr=0.02, amsgrad=True)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4], 0.5)

    def evaluate():
        return {"accuracy": (model(x).argmax(1) == y).double().mean().item()}

    return {
        "model": model,
        "estimator": estimator,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "cost": lambda net, a, b: F.cross_entropy(net(a), b, reduction="none"),
        "train": (x, y),
        "epochs": 6,
        "batch_size": 15,
        "seed": seed,
        "evaluate": evaluate,
    }


def train(path, every=4):
    """What the command line does: create the run or open it, and train it to its end."""
    if (path / "config.json").exists():
        run = RunFolder.open(path)
    else:
        run = RunFolder.create(path, {"every": every}, overwrite=True)
    with run:
        return fit(**build(), run=run, resume=True, checkpoint_every=every)


def warm_up():
    """Make torch import in this process what each child would import anew; no backward, which starts threads."""
    parts = build()
    for parameter in parts["model"].parameters():
        parameter.grad = torch.zeros_like(parameter)
    with torch.no_grad():
        parts["evaluate"]()
    parts["optimizer"].step()
    parts["scheduler"].step()


def memory_folder():
    """A folder in memory where there is one: a kill, unlike a power cut, loses nothing that fsync would save."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def digest(path):
    """sha256 of what may not depend on interruptions: metrics, and every file of the last checkpoint."""
    last = max((path / "checkpoints").iterdir())
    files = [path / "config.json", path / "metrics.jsonl", *sorted(last.iterdir())]
    named = [(str(file.relative_to(path)), file.read_bytes()) for file in files if file.is_file()]
    return {name: hashlib.sha256(content).hexdigest() for name, content in named}


def fork(job, log):
    """Run `job()` in a forked child; returns its pid. Its traceback, if any, is appended to `log`."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        warnings.simplefilter("error")  # a kill must not even cost one checkpoint, which would be a warning
        job()
        code = 0
    except Interrupted as stop:
        code = stop.exit_code
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        with open(log, "a") as file:
            traceback.print_exc(file=file)
    finally:
        os._exit(code)


def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def sweep(folder, kills, seed, signals):
    rng, log, problems = random.Random(seed), folder / "log", []
    reference, started = folder / "reference", time.perf_counter()
    if code := wait(fork(lambda: train(reference), log)):
        sys.exit(f"the uninterrupted run failed with {code}:\n{log.read_text()}")
    whole, done, trials, began = time.perf_counter() - started, 0, 0, time.perf_counter()
    expected = digest(reference)
    while done < kills:
        path = folder / f"trial-{trials}"
        trials += 1
        while True:
            pid = fork(lambda path=path: train(path), log)
            time.sleep(rng.random() * whole)
            os.kill(pid, signal.Signals[f"SIG{rng.choice(signals)}"])
            code = wait(pid)
            if code == 0:
                break
            done += 1
            if code == 1:
                problems.append(f"trial {trials}: failed")
                break
        if digest(path) != expected:
            problems.append(f"trial {trials}: differs")
    seconds = time.perf_counter() - began
    return {
        "kills": done,
        "trials": trials,
        "identical": trials - len(problems),
        "seconds": round(seconds, 2),
        "problems": problems[:10],
        "log": log.read_text()[-2000:] if log.exists() else "",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signals", default="KILL", help="comma-separated, such as KILL,TERM,INT")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warm_up()
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        result = sweep(Path(folder), arguments.kills, arguments.seed, arguments.signals.split(","))
    print(json.dumps(result))
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
