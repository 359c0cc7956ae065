"""A reward of one's own: a language model learns to name the topic in few words, and a callback watches."""

from typing import Any

from proximo import language

TOPICS = ["rain", "bread", "the sea", "a violin", "winter", "chess", "an old map", "coffee"]
PROMPTS = [{"prompt": f"A sentence about {topic}:", "topic": topic} for topic in TOPICS]


def on_topic(prompts: list[str], responses: list[str], topic: list[str]) -> list[float]:
    """One number for each response; `topic` is the column of the prompts' rows."""
    return [float(t in r.lower()) - len(r.split()) / 50 for t, r in zip(topic, responses, strict=True)]


def stop_when_it_learnt(trainer: language.Trainer, metrics: dict[str, Any]) -> bool:
    """Ends the run once nine of ten responses name their topic; its own number is recorded and shown."""
    metrics["words"] = sum(len(text.split()) for text in trainer.policy.respond(PROMPTS)) / len(PROMPTS)
    return metrics["score"] < 0.7


def main(model: str = "builtin:smollm2", responses: int = 2048, run: str = "runs/own-reward") -> language.LanguageRun:
    return language.train(
        model,
        prompts=PROMPTS,
        rewards=[on_topic],
        callbacks=[stop_when_it_learnt],
        run=run,
        responses=responses,
        batch=32,
        response_limit=24,
        learning_rate="2e-4 -> 0",
        sharing={"mode": "top_layers", "top_layers": 2},
        update={"epochs": 2, "minibatch_size": 16},
    )


if __name__ == "__main__":
    print(main().results)
