"""Judges are made from encoders of any architecture, and from nothing else."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    CLIPConfig,
    DebertaV2Config,
    DistilBertConfig,
    GPT2Config,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    T5Config,
    ViTConfig,
)

from proximo.errors import UserError
from proximo.language.config import RewardConfig
from proximo.language.models.encoder import check_encoder
from proximo.language.models.loading import load_encoder
from proximo.language.rewards.judge import Judge
from proximo.language.supervised.judge import train_judge

SIZE = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 20,
}
ENCODERS = {
    "bert": BertConfig(**SIZE),
    "roberta": RobertaConfig(**SIZE),  # its first position is the padding's id + 1
    "mpnet": MPNetConfig(**SIZE),  # takes no token types, has no SDPA
    "distilbert": DistilBertConfig(
        vocab_size=64, dim=16, hidden_dim=32, n_layers=2, n_heads=2, max_position_embeddings=20
    ),
    "modernbert": ModernBertConfig(**SIZE, pad_token_id=0, cls_token_id=2, sep_token_id=3),
    "deberta": DebertaV2Config(**SIZE, relative_attention=True, pos_att_type=["p2c", "c2p"]),
}
OTHERS = {
    "gpt2": GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=20),
    "bert": BertConfig(**SIZE, is_decoder=True),
    "t5": T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2),
}


def judging(tmp_path, config, tokenizer):
    """What a judge is trained with, from a random model of this kind; some texts are longer than it can read."""
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    rows = [{"prompt": "w4", "chosen": f" w5 w{i}" + " w9" * (2 * i - 20), "rejected": " w6"} for i in range(10, 26)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, data, output = (str(tmp_path / name) for name in ("encoder", "pairs.jsonl", "judge"))
    return RewardConfig(model, data, output=output, batch=8, learning_rate=1e-3)


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders_of_every_kind_are_judges_and_come_back_as_saved(tmp_path, make_tokenizer, kind):
    config = judging(tmp_path, ENCODERS[kind], make_tokenizer())
    assert train_judge(config, console="quiet")["steps"] == 2
    judge = Judge.load(config.output)
    texts = ["w4", "w4 w5 w6", "w7 " * 15, "w8 w9 " * 20]
    scores = judge.score(texts)
    torch.testing.assert_close(
        torch.tensor(scores), torch.cat([torch.tensor(judge.score([t])) for t in texts]), rtol=1e-4, atol=1e-4
    )
    judge.save(tmp_path / "again")
    assert (Judge.load(tmp_path / "again").score(texts) == scores).all()


@pytest.mark.parametrize("kind", [*OTHERS, "llama"])
def test_what_reads_in_one_direction_is_no_judge(tmp_path, make_tokenizer, tiny_model, kind):
    config = judging(tmp_path, OTHERS.get(kind, tiny_model.config), make_tokenizer())
    with pytest.raises(UserError, match="encoder is no encoder: give the judge one, as builtin:minilm"):
        train_judge(config, console="quiet")


@pytest.mark.parametrize(
    "config",
    [ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16), CLIPConfig()],
)
def test_what_reads_no_text_is_no_judge(tmp_path, make_tokenizer, config):
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    with pytest.raises(UserError, match="it is no encoder"):
        check_encoder(model, make_tokenizer(), "it")


def test_an_encoder_that_lacks_weights_is_refused_unless_they_are_the_poolers(tiny_encoder):
    file = tiny_encoder / "model.safetensors"
    whole = load_file(file)
    state = load_encoder(str(tiny_encoder))(torch.tensor([[4, 5]])).last_hidden_state
    save_file({n: x for n, x in whole.items() if "pooler" not in n}, file, metadata={"format": "pt"})
    assert len(load_file(file)) < len(whole)
    assert torch.equal(load_encoder(str(tiny_encoder))(torch.tensor([[4, 5]])).last_hidden_state, state)
    lost = "encoder.layer.0.attention.self.query.weight"
    save_file({n: x for n, x in whole.items() if n != lost}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"encoder lacks {lost}, which would be random"):
        load_encoder(str(tiny_encoder))
