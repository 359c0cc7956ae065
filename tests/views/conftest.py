"""One finished run, and one browser, for all tests; a tab for all tests of a file."""

import pytest
from browser import browser, tab

from proximo.cli import main as cli

SMALL = ("--steps", "4096", "--environments", "8", "--rollout-length", "32", "--update.minibatch-size", "64")


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Folders of two finished runs that differ in their seed alone."""
    folder = tmp_path_factory.mktemp("views")
    for seed in (0, 1):
        arguments = ["train", "CartPole-v1", "--quiet", "--seed", str(seed), "--run", str(folder / f"seed-{seed}")]
        assert cli.main([*arguments, *SMALL, "--episodes", "2", "--episode-limit", "100"]) == 0
    return [folder / "seed-0", folder / "seed-1"]


@pytest.fixture(scope="session")
def browser_port(tmp_path_factory):
    """A real browser."""
    with browser(tmp_path_factory.mktemp("profile")) as port:
        yield port


@pytest.fixture(scope="module")
def page(browser_port):
    """A tab of it."""
    with tab(browser_port) as page:
        yield page


def short(prompts, responses):
    return [-float(len(text)) for text in responses]


@pytest.fixture(scope="session")
def talk(tmp_path_factory):
    """A finished language run of adapters, by a tokenizer that llama.cpp has."""
    import tiny

    from proximo import language

    folder = tmp_path_factory.mktemp("talk")
    tiny.llama(320, layers=2).save_pretrained(folder / "model")
    tiny.pair_tokenizer(316).save_pretrained(folder / "model")
    return language.train(
        str(folder / "model"),
        prompts=[{"prompt": "the cat"}, {"prompt": "a dog"}],
        rewards=[short],
        run=str(folder / "run"),
        responses=32,
        batch=16,
        response_limit=8,
        learning_rate=1e-2,
        temperature=0.7,
        preflight="off",
        progress="quiet",
        sharing={"mode": "lora", "lora_rank": 4},
        update={"epochs": 1, "minibatch_size": 8},
    )
