"""Episodes as videos, read back by a decoder."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageSequence
from videos import pictures

import proximo
from proximo.errors import UserError
from proximo.views.record.drawing import GAP, HEAD, frames
from proximo.views.record.episode import Filmed


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pole"
    small = {"environments": 4, "rollout_length": 16, "update": {"minibatch_size": 32, "epochs": 1}, "episodes": 2}
    proximo.train("CartPole-v1", run=folder, steps=256, seed=3, progress="quiet", backend="gymnasium", **small)
    return folder


def test_a_video_has_a_frame_for_each_step_at_the_tasks_own_rate_and_both_policies_side_by_side(run, tmp_path):
    file = proximo.record(run, tmp_path / "a.mp4", seed=5)
    about, seen = pictures(file)
    lengths = []
    for checkpoint in ("best", "final"):
        policy, env = proximo.load(run, checkpoint), __import__("gymnasium").make("CartPole-v1")
        observation, _ = env.reset(seed=5)
        steps, over = 0, False
        while not over:
            observation, _, terminated, truncated, _ = env.step(policy.act(observation))
            steps, over = steps + 1, terminated or truncated
        lengths.append(steps)
    assert len(seen) == max(lengths)
    assert about["fps"] == 50  # CartPole's metadata
    assert about["size"] == (2 * 320 + 6, HEAD + 320 * 400 // 600 + 1 + 2 * 52)


def test_the_picture_is_that_of_the_state(run, tmp_path):
    """The pole's cart of the first frame is where CartPole draws it; below it the reward's curve is blue."""
    file = proximo.record(run, tmp_path / "b.gif", policies=["latest"], seed=5, limit=30, width=300)
    env = __import__("gymnasium").make("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=5)
    drawn = np.asarray(Image.fromarray(env.render()).resize((300, 200)), float)
    frames = [np.asarray(frame.convert("RGB"), float) for frame in ImageSequence.Iterator(Image.open(file))]
    assert np.abs(frames[0][HEAD : HEAD + 200, :300] - drawn).mean() < 6
    strip = frames[-1][HEAD + 206 : HEAD + 252]
    assert ((strip[..., 2] - strip[..., 0]) > 100).any()


def written(width, title, ended=""):
    """Where the title of an episode's last frame has ink: rows and columns."""
    out = io.BytesIO()
    Image.new("RGB", (width, 40), "white").save(out, "JPEG")
    episode = Filmed(title, [out.getvalue()] * 3, [1234.5] * 3, ended=ended)
    (*_, last) = frames([episode, episode])
    return np.nonzero(np.asarray(last)[:HEAD, : width + GAP].min(2) < 128)


def test_a_title_is_large_where_there_is_room_and_never_runs_into_the_next_one():
    rows, columns = written(320, "latest")
    assert rows.max() - rows.min() >= 11, "letters of 10 pixels swallow a colon"
    assert columns.max() < 320
    rows, columns = written(240, "200,704 steps", ended="truncated")
    assert columns.max() < 240
    assert rows.max() - rows.min() >= 9


SMALL = {"environments": 2, "rollout_length": 16, "update": {"minibatch_size": 32, "epochs": 1}, "episodes": 1}


@pytest.mark.parametrize("task", ["LunarLander-v3", "BipedalWalker-v3"])
def test_box2d_is_drawn_as_it_draws_itself(task, tmp_path):
    pytest.importorskip("Box2D")
    small = {**SMALL, "steps": 32, "progress": "quiet", "backend": "gymnasium", "episode_limit": 20}
    proximo.train(task, run=tmp_path / "run", **small)
    about, seen = pictures(proximo.record(tmp_path / "run", policies=["latest"], seed=5, limit=12, width=300))
    env = __import__("gymnasium").make(task, render_mode="rgb_array")
    env.reset(seed=5)
    drawn = np.asarray(Image.fromarray(env.render()).resize((300, 200)), float)
    assert np.abs(seen[0][HEAD : HEAD + 200, :300] - drawn).mean() < 6
    assert len(seen) == 12
    assert about["fps"] == env.metadata["render_fps"]
    assert np.abs(seen[-1].astype(float) - seen[0])[HEAD : HEAD + 200].max() > 60, "it moves"


def test_atari_is_drawn_in_its_own_colours_and_at_the_rate_that_it_states(tmp_path):
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    small = {**SMALL, "steps": 32, "progress": "quiet", "backend": "gymnasium", "episode_limit": 20}
    proximo.train("ALE/Pong-v5", run=tmp_path / "run", **small)
    about, seen = pictures(proximo.record(tmp_path / "run", policies=["latest"], seed=5, limit=12, width=160))
    field = seen[0][HEAD + 40 : HEAD + 190, :160].reshape(-1, 3)
    assert np.abs(np.median(field, 0) - [144, 72, 17]).max() < 12, "Pong's brown"
    right = seen[0][HEAD + 34 : HEAD + 194, 138:146].reshape(-1, 3).astype(float)
    assert (np.abs(right - [92, 186, 92]).max(1) < 40).any(), "our paddle is green"
    assert len(seen) == 12
    assert about["fps"] == 30  # render_fps of the Arcade Learning Environment; played in real time it would be 15
    assert about["size"][0] == 160


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"out": "a.avi"}, r"\.mp4 or \.gif"),
        ({"policies": ["newest"]}, "no policy 'newest'"),
        ({"limit": 0}, "limit = 0"),
        ({"width": 8}, "width = 8"),
        ({"seed": -5}, "seed = -5"),
    ],
)
def test_what_can_not_be_is_refused_and_leaves_nothing(run, asked, words):
    with pytest.raises(UserError, match=words):
        proximo.record(run, **asked)
    assert not (run / "videos").exists()


def test_what_the_disk_refuses_is_one_sentence(run, tmp_path):
    for kind in ("mp4", "gif"):
        file = tmp_path / f"{'a' * 250}.{kind}"
        with pytest.raises(UserError, match=r"^File name too long while writing .*: [^\n]*$"):
            proximo.record(run, file, policies=["latest"], seed=5, limit=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="only there a screen is looked for")
def test_without_a_screen_none_is_looked_for(run, tmp_path):
    hidden = {"DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER"}
    given = {name: value for name, value in os.environ.items() if name not in hidden}
    words = [sys.executable, "-m", "proximo", "record", str(run), "--out", str(tmp_path / "a.gif"), "--limit", "2"]
    told = subprocess.run(words, env=given, capture_output=True, text=True, check=True)
    assert told.stderr == ""


def test_an_environment_that_draws_nothing_is_named(tmp_path, monkeypatch):
    (tmp_path / "dark.py").write_text("import gymnasium\ndef make():\n    return gymnasium.make('CartPole-v1')\n")
    monkeypatch.chdir(tmp_path)
    small = {"environments": 2, "rollout_length": 16, "update": {"minibatch_size": 32, "epochs": 1}, "episodes": 1}
    proximo.train("dark:make", run="dark", steps=32, progress="quiet", **small)
    with pytest.raises(UserError, match="dark:make draws nothing"):
        proximo.record("dark")
    assert not (tmp_path / "dark" / "videos").exists()


OWN = """
import gymnasium, numpy as np
class Own(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}
    def step(self, action):
        return np.zeros(1, np.float32), 1.0, True, False, {}
class Failing(Own):
    def render(self):
        return {}["picture"]
"""


@pytest.mark.parametrize(("name", "said"), [("Own", "draws nothing"), ("Failing", "its render failed.*KeyError")])
def test_an_environment_of_ones_own_is_not_told_of_screens(tmp_path, monkeypatch, name, said):
    (tmp_path / f"own_{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    small = {"environments": 2, "rollout_length": 16, "update": {"minibatch_size": 32, "epochs": 1}, "episodes": 1}
    proximo.train(f"own_{name}:{name}", run="own", steps=32, progress="quiet", **small)
    with pytest.raises(UserError, match=said) as refused:
        proximo.record("own")
    assert "MuJoCo" not in str(refused.value)


WITHOUT_EGL = """
import ctypes

class Without(ctypes.CDLL):
    def __init__(self, name, *arguments, **options):
        if "EGL" in str(name) or "OSMesa" in str(name):
            raise OSError(f"{name}: cannot open shared object file")
        super().__init__(name, *arguments, **options)

ctypes.CDLL, ctypes.cdll = Without, ctypes.LibraryLoader(Without)
from proximo.control.config import TrainConfig
from proximo.errors import UserError
from proximo.views.record.episode import drawing_environments

try:
    drawing_environments(TrainConfig(environment="InvertedPendulum-v5"), 320)
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("given", [{}, {"MUJOCO_GL": "osmesa"}], ids=["egl", "osmesa"])
def test_where_mujoco_can_not_be_imported_for_want_of_what_draws_the_advice_is_given(given):
    """The library is hidden from a process of its own: MuJoCo asks for it when it is imported."""
    without = {key: x for key, x in os.environ.items() if key not in ("DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM")}
    without |= given
    done = subprocess.run([sys.executable, "-c", WITHOUT_EGL], capture_output=True, text=True, env=without)
    assert "MUJOCO_GL=osmesa (libosmesa6); it said: " in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1, "one sentence, and no report"
