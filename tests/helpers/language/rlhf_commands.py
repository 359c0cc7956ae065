"""`proximo rlhf` called from a test, and reward functions that it can name."""

from proximo.cli.main import main


def run(capsys, *arguments):
    code = main(["rlhf", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def count(prompts, responses):
    return [0.1 * len(r.split()) for r in responses]


def broken(prompts, responses):
    return [float("nan")] * len(responses)
