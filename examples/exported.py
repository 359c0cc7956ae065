"""A robot's policy, exported and driven from each of its files in a plain loop that knows nothing of Proximo."""

import ctypes
import runpy
import subprocess
from typing import Any

import gymnasium as gym
import numpy as np
import onnxruntime
import torch

import proximo


def drive(act: Any) -> float:
    """The return of one episode; `act` sees a batch of one observation, float32 [1, 4]."""
    env, total, over = gym.make("InvertedPendulum-v5"), 0.0, False
    observation, _ = env.reset(seed=0)
    while not over:
        observation, reward, ended, cut, _ = env.step(np.array(act(observation.astype(np.float32)[None]))[0])
        total, over = total + float(reward), ended or cut
    return total


def main(steps: int = 100_000, run: str = "runs/exported") -> dict[str, float]:
    trained = proximo.train("InvertedPendulum-v5", steps=steps, seed=0, run=run)
    onnx, script, numpy, c = (proximo.export(trained, to).path for to in ("onnx", "torchscript", "numpy", "c"))
    session, module = onnxruntime.InferenceSession(onnx / "policy.onnx"), torch.jit.load(script / "policy.pt")
    returns = {"policy": drive(proximo.load(trained).act), "numpy": drive(runpy.run_path(f"{numpy}/policy.py")["act"])}
    returns["onnx"] = drive(lambda x: session.run(None, {"observation": x})[0])
    returns["torchscript"] = drive(lambda x: module(torch.from_numpy(x))[0])
    library = c.parent.absolute() / "policy.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", c / "policy.c", "-o", library, "-lm"], check=True)
    act, action = ctypes.CDLL(str(library)).policy_act, np.zeros((1, 1), np.float32)
    return returns | {"c": drive(lambda x: (act(*(ctypes.c_void_p(y.ctypes.data) for y in (x, action))), action)[1])}


if __name__ == "__main__":
    print(main())
