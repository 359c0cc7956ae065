"""Names of other libraries' options: a refusal of one of them names ours."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

from proximo.errors import UnknownKeyError

_STEPS, _UPDATE = "--steps", "--update."

CONTROL: Mapping[str, str] = {
    **dict.fromkeys(("n-envs", "num-envs", "nenv", "nenvs", "num-env", "n-env", "num-workers"), "--environments"),
    **dict.fromkeys(
        ("total-timesteps", "n-timesteps", "timesteps", "total-steps", "num-timesteps", "max-steps", "num-steps-total"),
        _STEPS,
    ),
    **dict.fromkeys(("max-iterations", "num-iterations"), "--steps (iterations x environments x rollout_length)"),
    **dict.fromkeys(("n-steps", "num-steps", "num-steps-per-env", "nsteps", "horizon-length"), "--rollout-length"),
    **dict.fromkeys(("ent-coef", "entropy-coef", "entropy-coefficient"), f"{_UPDATE}entropy-coefficient"),
    **dict.fromkeys(("vf-coef", "value-loss-coef", "value-coefficient", "critic-coef"), f"{_UPDATE}value-coefficient"),
    **dict.fromkeys(("gae-lambda", "lambda", "tau"), "--lam"),
    **dict.fromkeys(("clip-range", "clip-coef", "clip-param", "clip-eps", "clip-epsilon", "e-clip"), f"{_UPDATE}clip"),
    **dict.fromkeys(("clip-range-vf", "clip-vloss", "use-clipped-value-loss"), f"{_UPDATE}value-clip"),
    **dict.fromkeys(("n-epochs", "update-epochs", "num-learning-epochs", "mini-epochs", "epochs"), f"{_UPDATE}epochs"),
    **dict.fromkeys(("batch-size", "minibatch-size", "mini-batch-size"), f"{_UPDATE}minibatch-size"),
    **dict.fromkeys(("num-minibatches", "num-mini-batches", "n-minibatches", "nminibatches"), "--minibatches"),
    **dict.fromkeys(("adam-eps", "eps"), "--adam-epsilon"),
    "max-grad-norm": f"{_UPDATE}max-grad-norm",
    "target-kl": f"{_UPDATE}target-kl",
    **dict.fromkeys(("desired-kl", "kl-threshold"), f"{_UPDATE}adaptive-kl"),
    **dict.fromkeys(("lr", "step-size"), "--learning-rate"),
    "anneal-lr": "--learning-rate '3e-4 -> 0'",
    **dict.fromkeys(("norm-adv", "normalize-advantage", "normalize-advantages"), f"{_UPDATE}normalize-advantages"),
    **dict.fromkeys(
        ("policy-kwargs", "net-arch", "hidden", "hidden-sizes", "hidden-dims", "hidden-size", "hidden-dim"),
        "--network.hidden 64 64",
    ),
    **dict.fromkeys(("activation", "activation-fn"), "--network.activation"),
    **dict.fromkeys(("env-kwargs", "env-args", "make-kwargs"), "--options KEY VALUE"),
    **dict.fromkeys(
        ("env", "env-id", "gym-id", "task", "environment", "environment-id"), "the name behind `proximo train`"
    ),
    **dict.fromkeys(("gpu", "cuda", "gpus"), "--device cuda"),
    **dict.fromkeys(("nproc-per-node", "nproc", "nprocs", "num-processes", "world-size", "num-gpus"), "--ranks"),
    **dict.fromkeys(
        ("nnodes", "node-rank", "rdzv-endpoint", "master-addr"),
        "nothing: torchrun takes it, before -m proximo (docs/scaling.md has the commands)",
    ),
    **dict.fromkeys(
        ("log-dir", "logdir", "tensorboard-log", "exp-name", "experiment-name", "log-folder", "run-name", "name"),
        "--run",
    ),
    **dict.fromkeys(("eval-freq", "eval-interval"), "--evaluate-every"),
    **dict.fromkeys(("n-eval-episodes", "eval-episodes"), "--episodes"),
    **dict.fromkeys(("save-freq", "save-interval", "checkpoint-freq"), "--checkpoint-every"),
    **dict.fromkeys(("normalize", "norm-obs", "empirical-normalization"), "--normalizers.observations"),
    **dict.fromkeys(("norm-reward", "normalize-reward", "normalize-rewards"), "--normalizers.rewards"),
    **dict.fromkeys(("config", "conf-file", "config-file", "yaml-file"), "--preset FILE.toml"),
    **dict.fromkeys(("hyperparams", "hyperparameters"), "nothing: each setting is an option of its own"),
    **dict.fromkeys(("env-wrapper", "wrapper"), "nothing: name a function that wraps it, as module:function"),
    "load-run": "nothing: the same command resumes; --from RUN starts from another run's policy",
    **dict.fromkeys(
        ("lr-schedule", "schedule"), "--learning-rate '3e-4 -> 0'; --update.adaptive-kl steers it by the KL"
    ),
    "num-threads": "nothing: OMP_NUM_THREADS is read by torch",
    "n-stack": "--frame-stack",
    **dict.fromkeys(("init-noise-std", "init-std", "log-std-init"), "--network.log-std (the logarithm)"),
    **dict.fromkeys(("actor-hidden-dims", "critic-hidden-dims"), "--network.hidden 64 64, for both"),
    "use-sde": "--network.noise gsde",
    "sde-sample-freq": "--network.noise-every",
    **dict.fromkeys(("std-type", "noise-std-type"), "--network.noise"),
    "ortho-init": "--network.orthogonal",
    "lstm-hidden-size": "--network.memory-size",
    **dict.fromkeys(("vec-env", "vec-env-type", "vec-env-cls"), "--backend"),
    "policy": "nothing: the spaces choose the network, and --network its layers",
    **dict.fromkeys(("log-interval", "log-freq"), "nothing: every iteration is recorded"),
    "stats-window-size": "nothing: returns are means of 100 episodes",
    "no-anneal-lr": "--learning-rate 3e-4, which is constant",
    "no-norm-adv": f"{_UPDATE}normalize-advantages off",
    "no-clip-vloss": "nothing: the value loss is not clipped unless --update.value-clip says so",
    "no-cuda": "--device cpu",
    "torch-deterministic": "nothing: the same seed gives the same run",
    "save-model": "nothing: the run saves itself",
    **dict.fromkeys(
        ("render", "render-mode", "capture-video", "video"),
        "--video-every STEPS; `proximo record RUN` films afterwards",
    ),
    **dict.fromkeys(("verbose", "progress-bar"), "--quiet"),
    **dict.fromkeys(
        ("resume", "load", "checkpoint", "pretrained-path", "continue"), "nothing: the same command resumes"
    ),
    "algo": "--algorithm (ppo, ppo-penalty, a2c, reinforce, trpo, or one of your own)",
    "wandb": "--track wandb",
    **dict.fromkeys(
        ("wandb-project-name", "wandb-entity"), "nothing: WANDB_PROJECT and WANDB_ENTITY are read by wandb"
    ),
}
"""Names of Stable-Baselines3, its zoo, CleanRL, rsl_rl and others, to ours of `proximo train`."""

ASKING: Mapping[str, str] = {
    **dict.fromkeys(("n-eval-episodes", "eval-episodes", "num-episodes", "n-episodes"), "--episodes"),
    **dict.fromkeys(("n-envs", "num-envs", "max-steps", "n-timesteps"), "nothing: it is what the run was trained with"),
    **dict.fromkeys(("env", "env-id", "task"), "nothing: the run knows its environment"),
    **dict.fromkeys(("render", "render-mode", "record"), "nothing: `proximo record RUN` films a run"),
    "deterministic": "nothing: the policy is evaluated both ways",
    **dict.fromkeys(("max-new-tokens", "max-tokens"), "nothing: answers are as long as in training"),
    "num-samples": "--count",
}
"""The same, to ours of what asks a run: `evaluate`, `doctor`, `rlhf evaluate` and `rlhf chat`."""

_LANGUAGE: Mapping[str, str] = {
    **dict.fromkeys(("output-dir", "save-path", "run-name", "exp-name"), "--run"),
    **dict.fromkeys(("lr", "actor-learning-rate"), "--learning-rate"),
    **dict.fromkeys(("warmup-ratio", "warmup-steps", "lr-warmup-ratio"), "--warmup (a share of the training)"),
    **dict.fromkeys(("bf16", "fp16", "torch-dtype", "dtype", "mixed-precision"), "--compute"),
    **dict.fromkeys(("save-steps", "save-interval"), "--checkpoint-every"),
    "save-total-limit": "--keep",
    **dict.fromkeys(
        ("gradient-accumulation-steps", "micro-batch-size", "per-device-micro-batch-size"),
        "--token-budget, which cuts a batch by its tokens and changes no gradient",
    ),
    **dict.fromkeys(("report-to", "logging-steps", "log-with"), "nothing: metrics are JSON lines in the run's folder"),
    "resume-from-checkpoint": "nothing: the same command resumes",
    "dataset-text-field": "nothing: a row is a prompt and what answers it, in fields of these names (docs/rlhf.md)",
    **dict.fromkeys(("optim", "optimizer", "adam-beta1", "adam-beta2"), "nothing: the optimiser is Adam"),
    **dict.fromkeys(
        ("push-to-hub", "hub-model-id"), "nothing: `hf upload` takes the folder, which transformers can load"
    ),
}
_SUPERVISED: Mapping[str, str] = {
    **_LANGUAGE,
    **dict.fromkeys(("model-name-or-path", "model-name", "pretrain", "base-model"), "--model"),
    **dict.fromkeys(("dataset-name", "dataset", "train-file", "train-dataset", "data-path"), "--data"),
    **dict.fromkeys(("eval-dataset", "validation-file", "eval-file"), "--validation"),
    **dict.fromkeys(("per-device-train-batch-size", "batch-size", "train-batch-size"), "--batch"),
    **dict.fromkeys(("num-train-epochs", "n-epochs", "num-epochs", "max-epochs"), "--epochs"),
    "max-steps": "--steps",
    **dict.fromkeys(("max-length", "max-seq-length", "max-seq-len", "cutoff-len", "max-len"), "--token-limit"),
    "lr-scheduler-type": "--schedule",
    "packing": "nothing: rows are sorted by length, so that little is padded",
    **dict.fromkeys(
        ("assistant-only-loss", "completion-only-loss", "train-on-inputs"),
        "nothing: the response alone is learnt, and of messages the last one, if it is the assistant's",
    ),
    **dict.fromkeys(
        ("load-in-4bit", "load-in-8bit"),
        "nothing: weights are not quantised; --compute bfloat16, --freeze and a small --token-budget need less memory",
    ),
    "loss-type": "nothing: fine-tuning has the likelihood of responses, and a reward model that of preferences",
    **dict.fromkeys(("gradient-checkpointing",), "nothing here: call model.gradient_checkpointing_enable() in Python"),
    **dict.fromkeys(
        ("use-peft", "use-lora", "lora-r", "lora-rank", "lora-alpha"),
        "nothing: fine-tuning trains whole layers (--freeze keeps the lowest); PPO has --sharing.mode lora",
    ),
    **dict.fromkeys(
        ("eval-strategy", "evaluation-strategy", "eval-steps"), "nothing: each epoch ends with a look at it"
    ),
}
_REWARD: Mapping[str, str] = {**_SUPERVISED, "center-rewards-coefficient": "--centre"}
_PPO: Mapping[str, str] = {
    **_LANGUAGE,
    **dict.fromkeys(("sft-model-path", "model-name-or-path", "model-name", "model", "pretrain"), "--policy"),
    **dict.fromkeys(("reward-model-path", "reward-model", "reward-funcs", "reward-fn"), "--rewards NAME 1.0"),
    **dict.fromkeys(("dataset-name", "dataset", "train-file", "prompt-data", "data", "query-dataset"), "--prompts"),
    **dict.fromkeys(("total-episodes", "num-episodes", "max-samples"), "--responses"),
    **dict.fromkeys(("num-train-epochs", "num-total-batches", "max-steps", "steps"), "--responses (prompts x epochs)"),
    **dict.fromkeys(
        ("per-device-train-batch-size", "batch-size", "rollout-batch-size", "local-batch-size"),
        "--batch (responses of an iteration)",
    ),
    **dict.fromkeys(("mini-batch-size", "local-mini-batch-size", "train-batch-size"), f"{_UPDATE}minibatch-size"),
    "num-mini-batches": f"{_UPDATE}minibatch-size (batch / their number)",
    **dict.fromkeys(("num-ppo-epochs", "ppo-epochs", "n-epochs", "epochs", "num-iterations"), f"{_UPDATE}epochs"),
    **dict.fromkeys(("kl-coef", "init-kl-coef", "beta", "kl-penalty-coef"), "--kl.coefficient"),
    **dict.fromkeys(("target", "kl-target", "target-kl-divergence"), "--kl.target"),
    "target-kl": f"{_UPDATE}target-kl (of an update), or --kl.target (to the reference)",
    **dict.fromkeys(("cliprange", "clip-range", "eps-clip", "epsilon"), f"{_UPDATE}clip"),
    **dict.fromkeys(("cliprange-value", "value-clip"), f"{_UPDATE}value-clip"),
    **dict.fromkeys(("vf-coef", "value-loss-coef"), f"{_UPDATE}value-coefficient"),
    **dict.fromkeys(("ent-coef", "entropy-coef"), f"{_UPDATE}entropy-coefficient"),
    **dict.fromkeys(("gae-lambda", "lambd", "lambda"), "--lam"),
    "max-grad-norm": f"{_UPDATE}max-grad-norm",
    **dict.fromkeys(
        ("response-length", "max-new-tokens", "max-completion-length", "generate-max-len", "max-tokens"),
        "--response-limit",
    ),
    **dict.fromkeys(("max-prompt-length", "prompt-max-len", "max-query-length"), "--prompt-limit"),
    **dict.fromkeys(("missing-eos-penalty", "non-eos-penalty"), "--missing-eos-floor"),
    **dict.fromkeys(("reward-clip", "reward-clip-range", "cliprange-reward", "cliprange-score"), "--score-clip"),
    **dict.fromkeys(("whiten-rewards", "use-score-norm", "use-score-scaling"), "nothing: scores are as they are"),
    **dict.fromkeys(("stop-token", "stop-token-id"), "nothing: a response ends with EOS, or as its template does"),
    **dict.fromkeys(("use-peft", "use-lora"), "--sharing.mode lora"),
    **dict.fromkeys(("lora-r", "lora-rank", "lora-dim"), "--sharing.lora-rank"),
    "lora-alpha": "--sharing.lora-alpha",
    **dict.fromkeys(
        ("num-generations", "n-samples-per-prompt", "group-size"),
        f"nothing: PPO samples one response to each prompt; with --algorithm rloo or grpo it is {_UPDATE}group",
    ),
    "gradient-checkpointing": "nothing here: call model.gradient_checkpointing_enable() in Python",
    "num-layers-unfrozen": "--sharing.mode top_layers --sharing.top-layers",
    **dict.fromkeys(("adam-eps", "adam-epsilon-value"), "--adam-epsilon"),
    **dict.fromkeys(
        ("use-vllm", "vllm-mode", "vllm-gpu-memory-utilization", "vllm-server-host"),
        "nothing: the model samples for itself, and another engine is given in Python (docs/rlhf.md)",
    ),
    "loss-type": "--algorithm (ppo, ppo-penalty, rloo or grpo)",
    **dict.fromkeys(("epsilon-high", "clip-higher"), f"nothing: with --algorithm grpo it is {_UPDATE}clip-high"),
    "scale-rewards": f"nothing: with --algorithm grpo it is {_UPDATE}scale",
    "reward-weights": "--rewards NAME WEIGHT",
    **dict.fromkeys(
        ("ref-model", "ref-model-path", "reference-model", "ref-policy"),
        "nothing: the reference is --policy as it is when the run begins",
    ),
    **dict.fromkeys(
        ("load-in-4bit", "load-in-8bit"),
        "nothing: weights are not quantised; --compute bfloat16 and --sharing.mode lora need less memory",
    ),
    **dict.fromkeys(("num-sample-generations", "num-completions-to-print"), "--samples (of every iteration)"),
    **dict.fromkeys(("eval-dataset", "validation-file", "eval-file"), "--held-out"),
    **dict.fromkeys(
        ("eval-strategy", "evaluation-strategy", "eval-steps"), "--judge-every (of --judge, on --held-out)"
    ),
    "lr-scheduler-type": "--learning-rate '1e-5 -> 0' or 'cosine 1e-5 -> 0'",
}
LANGUAGE: Mapping[str, Mapping[str, str]] = {
    "sft": _SUPERVISED,
    "reward": _REWARD,
    "judge": _REWARD,
    "ppo": _PPO,
    "preflight": _PPO,
}
"""Names of TRL, OpenRLHF, trlX and others, to ours of each stage of `proximo rlhf`."""


def answered(arguments: Iterable[str], table: Mapping[str, str], ours: Collection[str]) -> str:
    """Answer to the first option that is another library's; "" if none is.

    Args:
        arguments: as typed.
        table: see `CONTROL`.
        ours: options that there are, without dashes before them.
    """
    for argument in arguments:
        if not argument.startswith("--"):
            continue
        typed = argument.partition("=")[0]
        name = re.sub(r"[._]", "-", typed.removeprefix("--")).lower()
        if name in table and re.sub("_", "-", typed.removeprefix("--")) not in ours:
            answer = table[name]
            is_ours = not answer.startswith("nothing: ")
            return f"there is no option {typed}: " + (f"here it is {answer}" if is_ours else answer.partition(": ")[2])
    return ""


_IN_PYTHON = {"quiet": 'progress="quiet"'}
"""Options whose keywords have other names."""


def answered_in_python(names: Iterable[str], table: Mapping[str, str], ours: Collection[str]) -> str:
    """The same for keywords: the answer to the first that is another library's; "" if none is.

    Args:
        names: as given.
        table: see `CONTROL`.
        ours: keywords that there are.
    """
    for name in names:
        if name in _IN_PYTHON and name not in ours:
            return f"there is no setting {name}: here it is {_IN_PYTHON[name]}"
        answer = table.get(re.sub("_", "-", name).lower(), "")
        if name in ours or not answer:
            continue
        option, space, rest = answer.partition(" ")
        if not option.startswith("--"):
            return f"there is no setting {name}: {answer.partition(': ')[2] or answer}"
        table_name, dot, key = option.removeprefix("--").replace("-", "_").partition(".")
        keyword = f'{table_name}={{"{key}": ...}}' if dot else _IN_PYTHON.get(table_name, table_name)
        return f"there is no setting {name}: here it is {keyword}{space}{rest}"
    return ""


@contextmanager
def answered_in_a_file(table: Mapping[str, str]) -> Iterator[None]:
    """The same for keys of a TOML file that is read within.

    Args:
        table: see `CONTROL`.

    Raises:
        UnknownKeyError: a key is unknown; one that is another library's is answered with ours.
    """
    try:
        yield
    except UnknownKeyError as error:
        answer = table.get(re.sub("_", "-", error.key).lower(), "")
        if not answer:
            raise
        option, _, rest = answer.partition(" ")
        if option.startswith("--"):
            key = option.removeprefix("--").replace("-", "_")
            hint = f"here it is {key}" + (f" (as an option: {answer})" if rest else "")
        else:
            hint = answer.removeprefix("nothing: ")
        raise UnknownKeyError(error.fault, hint, error.key) from None
