import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proximo.errors import UserError
from proximo.runs.config.toml import difference, from_mapping, read_toml, to_toml


@dataclass(frozen=True)
class Network:
    sizes: tuple[int, ...] = (64, 64)
    activation: Literal["tanh", "relu", "none"] = "tanh"
    limits: tuple[float, float] | None = (-1.0, 1.0)


@dataclass(frozen=True)
class Settings:
    clip: float | None = 0.2
    learning_rate: float = 3e-4
    target_kl: float | None = None
    network: Network = field(default_factory=Network)

    def __post_init__(self):
        if self.learning_rate < 0:
            raise ValueError(f"learning_rate = {self.learning_rate} must not be negative")


@dataclass(frozen=True)
class Train:
    environment: str
    steps: int = 1_000_000
    device: str | None = "cpu"
    resume: bool = True
    seed: int | Literal["random"] = 0
    options: dict[str, bool | int | float | str] = field(default_factory=dict)
    settings: Settings = Settings(learning_rate=1e-3)
    critic: Network | None = None


number = st.floats(allow_nan=False)
texts = st.text(max_size=20)
networks = st.builds(
    Network,
    sizes=st.lists(st.integers(), max_size=4).map(tuple),
    activation=st.sampled_from(["tanh", "relu", "none"]),
    limits=st.none() | st.tuples(number, number),
)
settings_ = st.builds(
    Settings,
    clip=st.none() | number,
    learning_rate=st.floats(0.0),
    target_kl=st.none() | number,
    network=networks,
)
trains = st.builds(
    Train,
    environment=texts,
    steps=st.integers(),
    device=st.none() | texts.filter(lambda text: text != "none"),
    resume=st.booleans(),
    seed=st.integers() | st.just("random"),
    options=st.dictionaries(texts, st.booleans() | st.integers() | number | texts, max_size=4),
    settings=settings_,
    critic=st.none() | networks,
)


def refusal(mapping: dict[str, Any], base: Train | None = Train("CartPole-v1")) -> str:
    with pytest.raises(UserError) as caught:
        from_mapping(Train, mapping, where="preset foo.toml", base=base)
    return str(caught.value)


@given(trains)
def test_what_is_written_reads_back_equal_with_the_same_types(config: Train):
    again = from_mapping(Train, tomllib.loads(to_toml(config)), where="test")
    assert again == config
    assert repr(again) == repr(config)


@given(trains, trains)
def test_a_complete_file_wins_over_any_base(config: Train, base: Train):
    assert from_mapping(Train, tomllib.loads(to_toml(config)), where="test", base=base) == config


@given(trains, trains)
def test_difference_is_empty_exactly_for_equal_configurations(a: Train, b: Train):
    assert difference(a, a) == []
    assert bool(difference(a, b)) == (a != b)


def test_difference_names_the_dotted_key():
    a = Train("CartPole-v1", options={"x": 1})
    b = replace(a, settings=replace(a.settings, clip=None), options={"x": 1, "y": 2})
    assert difference(a, b) == [("options.y", None, 2), ("settings.clip", 0.2, None)]


def test_an_unset_field_with_another_default_stays_unset():
    config = Train("CartPole-v1", device=None, settings=Settings(clip=None))
    assert 'clip = "none"' in to_toml(config)
    assert from_mapping(Train, tomllib.loads(to_toml(config)), where="test") == config


def test_the_word_for_unset_cannot_be_a_value_of_an_optional_text():
    with pytest.raises(UserError, match="device"):
        to_toml(Train("CartPole-v1", device="none"))


def test_a_nested_table_changes_only_what_it_names():
    base = Train("CartPole-v1", settings=Settings(clip=0.1, target_kl=0.5))
    config = from_mapping(Train, {"settings": {"clip": 0.3}}, where="test", base=base)
    assert config == replace(base, settings=replace(base.settings, clip=0.3))
    without_base = from_mapping(Train, {"environment": "a", "settings": {"clip": 0.3}}, where="test")
    assert without_base.settings == Settings(clip=0.3, learning_rate=1e-3)  # Train's default, not that of Settings


def test_numbers_and_lists_convert_where_nothing_is_lost():
    config = from_mapping(
        Train,
        {"environment": "a", "steps": 1e6, "settings": {"clip": 1, "network": {"sizes": [1e2, 3]}}},
        where="test",
    )
    assert config.steps == 1_000_000
    assert type(config.steps) is int
    assert type(config.settings.clip) is float
    assert config.settings.network.sizes == (100, 3)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"setps": 1}, "unknown key 'setps' in preset foo.toml: did you mean 'steps'?"),
        (
            {"settings": {"lerning_rate": 1}},
            "unknown key 'settings.lerning_rate' in preset foo.toml: did you mean 'settings.learning_rate'?",
        ),
        ({"clip": 0.2}, "unknown key 'clip' in preset foo.toml: did you mean 'settings.clip'?"),
        ({"zzz": 1}, "unknown key 'zzz' in preset foo.toml: the keys there are environment, steps, device, resume,"),
        ({"steps": "many"}, "steps = 'many' in preset foo.toml must be a whole number"),
        ({"steps": 1.5}, "steps = 1.5 in preset foo.toml must be a whole number"),
        ({"steps": float("inf")}, "steps = inf in preset foo.toml must be a whole number"),
        ({"steps": True}, "steps = true in preset foo.toml must be a whole number"),
        ({"resume": 1}, "resume = 1 in preset foo.toml must be true or false"),
        ({"environment": 3}, "environment = 3 in preset foo.toml must be a text in quotes"),
        ({"environment": "none", "device": 3}, 'device = 3 in preset foo.toml must be a text in quotes or "none"'),
        ({"seed": "any"}, "seed = 'any' in preset foo.toml must be a whole number or 'random'"),
        ({"settings": 3}, "settings = 3 in preset foo.toml must be a table"),
        ({"settings": "none"}, "settings = 'none' in preset foo.toml must be a table"),
        ({"options": {"a": [1]}}, "options = {'a': [1]} in preset foo.toml must be a table with each value"),
        (
            {"settings": {"network": {"activation": "gelu"}}},
            "settings.network.activation = 'gelu' in preset foo.toml must be one of 'tanh', 'relu', 'none'",
        ),
        ({"settings": {"network": {"sizes": [1.5]}}}, "must be a list, each item a whole number"),
        ({"settings": {"network": {"limits": [1]}}}, 'must be a list of 2 (a number, a number) or "none"'),
        (
            {"settings": {"learning_rate": -1}},
            "learning_rate = -1.0 must not be negative (in [settings] of preset foo.toml)",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_is_expected(mapping: dict[str, Any], message: str):
    assert message in refusal(mapping)


def test_a_missing_key_is_named():
    assert "missing key 'environment' in preset foo.toml" in refusal({}, base=None)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path):
    path = tmp_path / "foo.toml"
    for content in (b"steps = ", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"foo\.toml is not valid TOML"):
            read_toml(path)
    with pytest.raises(UserError, match=r"cannot read .*absent"):
        read_toml(tmp_path / "absent.toml")


def test_a_setting_is_unset_by_none_in_python_and_by_a_word_in_a_file():
    for unset in (None, "none"):
        assert from_mapping(Settings, {"clip": unset}, where="a test").clip is None
    with pytest.raises(UserError, match="learning_rate = None in a test must be a number"):
        from_mapping(Settings, {"learning_rate": None}, where="a test")
