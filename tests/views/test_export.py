"""An export acts as the policy does, says what it is given and gives, and is left only where that is so."""

import ctypes
import inspect
import json
import runpy
import subprocess
import sys
from importlib import import_module

import export_tasks
import gymnasium
import mujoco
import numpy as np
import onnxruntime
import pytest
import torch
from export_tasks import short_run

import proximo
from proximo.cli import main as cli
from proximo.errors import UserError
from proximo.views.export.interface import Interface
from proximo.views.export.mujoco_units import action_units, observation_units
from proximo.views.export.targets import numpy_target

NORMALIZED = {"normalizers": {"observations": True, "clip": 2.0}}
CASES = {
    "robot": (export_tasks.robot, {**NORMALIZED, "network": {"activation": "elu"}}),
    "beta": (export_tasks.robot, {**NORMALIZED, "network": {"actions": "beta"}}),
    "noise of the state": (export_tasks.robot, {**NORMALIZED, "network": {"noise": "state"}}),
    "gsde": (export_tasks.robot, {**NORMALIZED, "network": {"noise": "gsde"}}),
    "far": (export_tasks.far, {**NORMALIZED, "network": {"actions": "squashed", "memory": "lstm", "memory_size": 8}}),
    "hybrid": (export_tasks.hybrid, {**NORMALIZED, "network": {"memory": "gru", "memory_size": 8}}),
    "camera": (export_tasks.camera, {"network": {"memory": "gru", "memory_size": 8, "activation": "silu"}}),
    "held_mask": (export_tasks.held_mask, {"network": {"activation": "relu"}}),
    "frames": (export_tasks.frames, {"frame_stack": 3}),
    "choice": (export_tasks.choice, {}),
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The folder of a short run by its name in `CASES`, made when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def run(name):
        if name not in made:
            make, settings = CASES[name]
            made[name] = short_run(make, folder / name, **settings).path
        return made[name]

    return run


@pytest.fixture(scope="session")
def exported(runs, tmp_path_factory):
    """An export by its run's name and its target, made when it is first asked for; nobody changes it."""
    folder, made = tmp_path_factory.mktemp("exports"), {}

    def export(name, target):
        if (name, target) not in made:
            made[name, target] = proximo.export(runs(name), target, folder / f"{name}-{target}", observations=60)
        return made[name, target]

    return export


def episodes(name, steps=17):
    """Observations, masks, and whether an episode starts, as a robot would meet them."""
    env = CASES[name][0]()
    observation, info = env.reset(seed=7)
    starts = True
    for _ in range(steps):
        yield observation, info.get("action_mask"), starts
        observation, _, starts, _, info = env.step(env.action_space.sample())
        if starts:
            observation, info = env.reset()


def by_policy(run, name):
    """What `proximo.load` does in those episodes."""
    policy = proximo.load(run)
    for observation, mask, starts in episodes(name):
        if starts:
            policy.reset()
        yield policy.act(observation, mask=mask)


def same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
        return
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    np.testing.assert_allclose(b, a, rtol=0, atol=1e-5)


def compare(run, name, actions):
    given = list(actions)  # before the policy's: the environments share the spaces that they draw from
    for own, other in zip(by_policy(run, name), given, strict=True):
        same(own, other)


def whole(name):
    """Those observations; of a stack of frames the last three together."""
    seen = []
    for observation, mask, starts in episodes(name):
        if name != "frames":
            yield observation, mask, starts
            continue
        seen = [observation] * 3 if starts else [*seen[1:], observation]
        yield np.stack(seen), mask, starts


def by_contract(contract, call):
    """Acts by what the contract says alone; `call` takes arrays by name and gives a list of outputs."""

    def act(observation, mask, state):
        given = {}
        for port in contract["inputs"]:
            leaf = {"mask": mask, "state": state}.get(port["name"], observation)
            for key in port["path"]:
                leaf = leaf[key]
            given[port["name"]] = np.asarray(leaf)[None].astype(port["dtype"])
            assert list(given[port["name"]].shape[1:]) == port["shape"]
        outputs = dict(zip([port["name"] for port in contract["outputs"]], call(given), strict=True))
        action = {
            tuple(p["path"]): outputs[p["name"]][0] for p in contract["outputs"] if p["name"].startswith("action")
        }
        after = outputs["next_state"][0] if contract["state"] else None
        return action[()] if () in action else {path[0]: x for path, x in action.items()}, after

    return act


def drive(name, contract, act):
    state = None
    for observation, mask, starts in whole(name):
        if starts and contract["state"]:
            state = np.zeros(contract["state"]["size"])
        action, state = act(observation, mask, state)
        yield action


def packed(x):
    """Arrays, and dicts, tuples and lists of them, as JSON."""
    if isinstance(x, dict):
        return {key: packed(inner) for key, inner in x.items()}
    if isinstance(x, (tuple, list)):
        return [type(x).__name__, [packed(inner) for inner in x]]
    if x is None or isinstance(x, bool):
        return x
    return ["array", np.asarray(x).dtype.str, np.shape(x), np.asarray(x).tobytes().hex()]


def unpacked(x):
    if isinstance(x, dict):
        return {key: unpacked(inner) for key, inner in x.items()}
    if not isinstance(x, list):
        return x
    if x[0] != "array":
        return {"tuple": tuple, "list": list}[x[0]](map(unpacked, x[1]))
    return np.frombuffer(bytes.fromhex(x[3]), x[1]).reshape(x[2]).copy()[()]


ALONE = """
import json, sys
for name in ("torch", "gymnasium", "proximo", "safetensors"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
import policy
seen, answers = unpacked(json.load(sys.stdin)), []
for observation, mask, starts in seen:
    more = {} if mask is None else {"mask": mask}
    if not policy.POLICY["state"]:
        answers.append(policy.act(observation, **more))
        continue
    state = policy.initial_state() if starts else state
    action, state = policy.act(observation, state, **more)
    answers.append(action)
json.dump(packed(answers), sys.stdout)
"""


@pytest.mark.parametrize("name", CASES)
def test_the_numpy_file_acts_as_the_policy_where_there_is_numpy_alone(name, runs, exported):
    made = exported(name, "numpy")
    assert made.max_error <= 1e-5
    program = "\n".join(["import numpy as np", inspect.getsource(packed), inspect.getsource(unpacked), ALONE])
    given = json.dumps(packed(list(whole(name))))
    done = subprocess.run([sys.executable, "-c", program, str(made.path)], input=given, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    compare(runs(name), name, unpacked(json.loads(done.stdout)))


@pytest.mark.parametrize("name", CASES)
def test_torchscript_acts_as_the_policy(name, runs, exported):
    made = exported(name, "torchscript")
    module = torch.jit.load(str(made.path / "policy.pt"))

    def call(given):
        outputs = module(*map(torch.from_numpy, given.values()))
        return [x.numpy() for x in outputs] if isinstance(outputs, tuple) else [outputs.numpy()]

    contract = json.loads((made.path / "contract.json").read_text())
    compare(runs(name), name, drive(name, contract, by_contract(contract, call)))


@pytest.mark.parametrize("name", ["far", "camera"])
def test_onnx_acts_as_the_policy_by_its_contract_alone_and_in_batches_of_any_size(name, runs, exported):
    made = exported(name, "onnx")
    session = onnxruntime.InferenceSession(made.path / "policy.onnx")
    contract = json.loads((made.path / "contract.json").read_text())
    names = [port["name"] for port in contract["outputs"]]

    def call(given):
        three = session.run(names, {key: np.repeat(x, 3, 0) for key, x in given.items()})
        for alone, batch in zip(session.run(names, given), three, strict=True):
            assert len(batch) == 3
            np.testing.assert_allclose(batch, np.repeat(alone, 3, 0), atol=1e-5)
        return session.run(names, given)

    compare(runs(name), name, drive(name, contract, by_contract(contract, call)))


@pytest.mark.parametrize("name", ["robot", "far", "hybrid", "held_mask"])
def test_c_compiles_without_a_warning_allocates_nothing_and_acts_as_the_policy(name, runs, exported, tmp_path):
    made = exported(name, "c")
    strict = ["-std=c99", "-O1", "-pedantic", "-Wall", "-Wextra", "-Wdouble-promotion", "-Werror", "-shared", "-fPIC"]
    library = tmp_path / "policy.so"
    subprocess.run(["cc", *strict, made.path / "policy.c", "-o", library, "-lm"], check=True)
    needed = subprocess.run(["nm", "-Du", library], capture_output=True, text=True, check=True).stdout
    assert not {word.partition("@")[0] for word in needed.split()} & {"malloc", "calloc", "realloc", "free"}
    function, outputs = ctypes.CDLL(str(library)).policy_act, made.contract["outputs"]
    exact = "const double *observation" in made.contract["call"]

    def call(given):
        rest = [given[key] for key in ("mask", "state") if key in given]
        parts = [x.ravel() for key, x in given.items() if key not in ("mask", "state")]
        flat = np.concatenate(parts).astype(np.float64 if exact else np.float32)
        sizes = [int(np.prod(port["shape"])) for port in outputs if port["name"].startswith("action")]
        scores = [np.zeros(port["shape"], np.float32) for port in outputs if port["name"] == "logits"]
        wide = np.float64 if "double *action" in made.contract["call"] else np.float32
        action = np.zeros(sum(sizes), wide)
        after = [given["state"]] if "state" in given else []  # the same array may be the next state
        arrays = [flat, *rest, action, *scores, *after]
        assert function(*(ctypes.c_void_p(x.ctypes.data) for x in arrays)) == 0
        ends = np.cumsum(sizes)[:-1]
        columns = [
            x.reshape(1, *p["shape"]).astype(p["dtype"]) for x, p in zip(np.split(action, ends), outputs, strict=False)
        ]
        flat[0], action[:] = np.nan, 7
        if "numbers" in made.contract["inputs"][0]["meaning"]:
            arrays = [flat, *rest, action, *scores, np.zeros(99, "f4")]
            assert function(*(ctypes.c_void_p(x.ctypes.data) for x in arrays)) == 1
            assert set(action) == {7}
        return [*columns, *scores, *after]

    compare(runs(name), name, drive(name, made.contract, by_contract(made.contract, call)))


@pytest.mark.parametrize(
    ("name", "wrong_by", "said"),
    [("robot", 2e-5, "of half their range apart"), ("choice", 1e-4, "probabilities of its choices are up to")],
)
def test_an_export_that_is_not_the_policy_is_refused_and_nothing_is_left(
    name, wrong_by, said, runs, tmp_path, monkeypatch
):
    write = numpy_target.write

    def wrong(policy, interface, folder):
        with torch.no_grad():
            policy.network.actor_head.bias[0] += wrong_by
            write(policy, interface, folder)
            policy.network.actor_head.bias[0] -= wrong_by

    monkeypatch.setattr(numpy_target, "write", wrong)
    with pytest.raises(UserError, match=f"not the same policy: .* {said}"):
        proximo.export(runs(name), "numpy", tmp_path / "new" / "out", observations=60)
    assert not list(tmp_path.iterdir())


def test_an_export_of_choices_says_how_near_their_probabilities_are(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["export", str(runs("choice")), "--to", "numpy", "--out", str(out), "--observations", "60"]) == 0
    parity = json.loads((out / "contract.json").read_text())["parity"]
    assert 0 < parity["max_error_of_probabilities"] <= parity["max_error"] <= 1e-5
    assert "probabilities of all choices: largest error" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["numpy", "torchscript", "onnx", "c"])
def test_the_logits_of_every_export_give_the_probabilities_of_the_policys_own_draws(target, runs, exported):
    """Of 4,000 draws in one place: within five standard errors of the softmax."""
    made = exported("choice", target)
    interface = Interface.of(proximo.load(runs("choice")).policy, export_tasks.choice().observation_space, bounded=True)
    play = import_module(f"proximo.views.export.targets.{target}_target").open_export(made.path, interface)
    seen = np.array([[0.3, -0.2, 0.9]])
    logits = dict(zip(interface.output_names, play(interface.feed(seen, None)), strict=True))["logits"][0].astype(float)
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    policy = proximo.load(runs("choice"))
    drawn = policy.act(np.repeat(seen, 4000, 0), deterministic=False) - 5
    shares = np.bincount(drawn.ravel(), minlength=3) / 4000
    assert np.abs(shares - expected).max() < 5 * 0.5 / np.sqrt(4000)


def test_an_older_export_is_replaced_and_anything_else_is_not(runs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    first = proximo.export(runs("robot"), "numpy", out, observations=20)
    held = (out / "policy.py").open()
    (out / "__pycache__").mkdir()
    again = proximo.export(runs("robot"), "numpy", out, observations=20)
    assert held.read() == (again.path / "policy.py").read_text(), "who has it open keeps the old one whole"
    assert sorted(x.name for x in out.iterdir()) == ["contract.json", "policy.py"]
    assert first.contract["sha256"] == again.contract["sha256"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        proximo.export(runs("robot"), "numpy", out)
    assert (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()

    def writes_meanwhile():
        (out / "notes.txt").write_text("mine too")
        return CASES["robot"][0]()

    with pytest.raises(UserError, match="holds something else"):
        proximo.export(runs("robot"), "numpy", out, environment=writes_meanwhile, observations=20)
    assert sorted(x.name for x in out.iterdir()) == ["contract.json", "notes.txt", "policy.py"]
    assert [x.name for x in tmp_path.iterdir()] == ["out"]


def test_the_contract_says_shapes_bounds_and_choices(exported):
    told = exported("hybrid", "numpy").contract
    assert [port["name"] for port in told["inputs"]] == [
        "observation.gear", "observation.position", "observation.state", "mask", "state",
    ]  # fmt: skip
    inputs, outputs = ({port["name"]: port for port in told[key]} for key in ("inputs", "outputs"))
    assert inputs["observation.gear"]["choices"] == [4]
    assert inputs["observation.gear"]["start"] == [1]
    assert inputs["observation.position"]["low"] == [None] * 3
    assert (inputs["mask"]["shape"], inputs["state"]["shape"]) == ([9], [8])
    assert (outputs["action.arm"]["low"], outputs["action.arm"]["high"]) == ([-2, None], [6, 1])
    assert outputs["action.grip"]["dtype"] == "int64"
    assert told["rate"] is None
    assert {port["units"] for port in [*told["inputs"], *told["outputs"]]} == {None}


def test_a_robot_of_mujoco_says_its_rate_and_the_names_of_its_motors_where_no_wrapper_hides_them(tmp_path):
    run = short_run("InvertedPendulum-v5", tmp_path / "run", options={"frame_skip": 4}, backend="gymnasium")
    told = proximo.export(run, "numpy", observations=20).contract
    assert told["rate"] == 12.5, "a step of the simulation is 0.02 s"
    assert told["inputs"][0]["columns"] == ["qpos[0]", "qpos[1]", "qvel[0]", "qvel[1]"]
    assert told["outputs"][0]["columns"] == ["slide"]
    assert told["inputs"][0]["units"] == ["m", "rad", "m/s", "rad/s"]
    assert told["outputs"][0]["units"] == ["100 N"], "the motor's gear is 100, on a slide"
    run = short_run(export_tasks.twice, tmp_path / "twice")
    told = proximo.export(run, "numpy", observations=20).contract
    assert told["rate"] == 12.5, "2 steps of 0.02 s, and each action is taken twice"
    assert told["inputs"][0]["columns"] is told["outputs"][0]["columns"] is None
    assert told["inputs"][0]["units"] is told["outputs"][0]["units"] is None


def test_the_units_of_a_control_are_those_that_mujoco_makes_a_force_of():
    model = mujoco.MjModel.from_xml_string(
        """<mujoco><worldbody><body><joint name="turn" type="hinge"/><geom size="1"/>
        <body><joint name="rail" type="slide"/><geom size="1"/></body></body></worldbody><actuator>
        <motor joint="turn" gear="20"/><motor joint="rail"/><position joint="turn" kp="5"/>
        <position joint="rail" kp="5" gear="4"/><velocity joint="turn" kv="3"/>
        <damper joint="turn" kv="3" ctrlrange="0 1"/><intvelocity joint="turn" kp="5" actrange="-1 1"/>
        </actuator></mujoco>"""
    )
    units = action_units(model)
    assert units == ("20 N m", "N", "rad", "0.25 m", "rad/s", None, None)
    data = mujoco.MjData(model)
    data.ctrl[0] = 1
    mujoco.mj_forward(model, data)
    assert data.qfrc_actuator[0] == 20
    data.ctrl[:] = 0
    data.qpos[1], data.ctrl[3] = 0.25, 1  # the servo holds still where it was told to be
    mujoco.mj_forward(model, data)
    assert data.actuator_force[3] == 0


def test_the_units_of_a_body_that_floats_follow_its_joints():
    model = gymnasium.make("Ant-v5").unwrapped.model
    structure = {"skipped_qpos": 2, "qpos": 13, "qvel": 14, "cfrc_ext": 78, "ten_length": 0}
    units = observation_units(model, structure)
    assert units[:6] == ("m", "1", "1", "1", "1", "rad")
    assert units[13:20] == ("m/s", "m/s", "m/s", "rad/s", "rad/s", "rad/s", "rad/s")
    assert units[27:33] == ("N m",) * 3 + ("N",) * 3
    assert len(units) == 105


def test_the_numpy_file_refuses_what_it_can_not_act_on(exported):
    made = exported("hybrid", "numpy")
    policy = runpy.run_path(str(made.path / "policy.py"))
    seen, mask, _ = next(episodes("hybrid"))
    state = policy["initial_state"]()
    with pytest.raises(ValueError, match="not finite"):
        policy["act"]({**seen, "position": [0.0, np.nan, 0.0]}, state, mask=mask)
    with pytest.raises(ValueError, match=r"observation.position must have the shape \(3,\)"):
        policy["act"]({**seen, "position": [0.0, 0.0]}, state, mask=mask)
    with pytest.raises(ValueError, match="trained with action masks"):
        policy["act"](seen, state)
    with pytest.raises(ValueError, match="one entry for each of the 9 choices"):
        policy["act"](seen, state, mask=mask[1:])


def test_the_command_prints_the_error_and_the_place(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["export", str(runs("robot")), "--to", "numpy", "--out", str(out), "--observations", "20"]) == 0
    assert "on 20 observations: largest error" in capsys.readouterr().out
    assert (out / "policy.py").exists()
    assert cli.main(["export", str(runs("robot")), "--to", "numpy", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parity"]["observations"] == 1000


def test_what_can_not_be_exported_is_said_in_one_sentence(runs, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="holds no run"):
        proximo.export(tmp_path, "numpy")
    with pytest.raises(UserError, match="must be 'numpy'"):
        proximo.export(runs("robot"), "nump")
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk" / "config.toml").write_text('kind = "language"\n')
    with pytest.raises(UserError, match="language model"):
        proximo.export(tmp_path / "talk", "numpy")
    assert not (tmp_path / "talk" / "export").exists()
    with pytest.raises(UserError, match="sees images"):
        proximo.export(runs("camera"), "c", tmp_path / "out")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(UserError, match=r"pip install 'proximo\[export\]'"):
            proximo.export(runs("robot"), "onnx", tmp_path / "out")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="there is no C compiler"):
        proximo.export(runs("robot"), "c", tmp_path / "out")
    assert not (tmp_path / "out").exists()
