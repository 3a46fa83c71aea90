"""One GPU: whole runs through sleep mode and CUDA IPC, packed attention, and memory of the head."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("algo", ["archer", "dapo"])
def test_a_colocated_run_syncs_and_trains(tmp_path: Path, algo: str):
    command = [
        sys.executable, "-m", "archer.main", f"algo={algo}", "cluster=1x1", "trainer.num_steps=3",
        "eval.max_problems=32", f"run.root={tmp_path}", "run.name=gpu",
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=1200)
    lines = [json.loads(line) for line in (tmp_path / "default/gpu/metrics.jsonl").open()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    for line in lines[1:]:
        assert line["rollout/mismatch_logprob_mean"] < 0.02  # bfloat16 kernels on both sides
        assert line["policy/skipped_updates"] == 0


@pytest.mark.parametrize(
    ("attention", "dtype", "tolerance"), [("sdpa", "float32", 1e-4), ("varlen", "bfloat16", 0.05)]
)
def test_packed_and_padded_logprobs_agree_on_the_gpu(attention: str, dtype: str, tolerance: float):
    import numpy as np
    import torch
    from transformers import AttentionInterface, Qwen2Config, Qwen2ForCausalLM

    from archer.types import Batch
    from archer.workers.attention import varlen_attention
    from archer.workers.model import PolicyModel, model_inputs

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, attn_implementation="sdpa",
    )  # fmt: skip
    AttentionInterface.register("varlen", varlen_attention)
    causal_lm = Qwen2ForCausalLM(config)
    model = PolicyModel(causal_lm).to("cuda", getattr(torch, dtype))
    rng = np.random.default_rng(0)
    lengths = [5, 40, 17]
    tokens = rng.integers(0, 512, sum(lengths), dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    prompts = rng.integers(0, 512, 9, dtype=np.int32)
    zeros = np.zeros(sum(lengths), np.float32)
    batch = Batch(
        prompt_tokens=prompts,
        prompt_offsets=np.array([0, 3, 6, 9]),
        response_tokens=tokens,
        offsets=offsets,
        rollout_logprobs=zeros,
        advantages=zeros,
        mask=zeros == 0,
        group_ids=np.arange(3),
        rewards=np.zeros(3),
        correct=np.zeros(3, bool),
        is_stored=np.zeros(3, bool),
    )
    logprobs, gradients = [], []
    for layout, implementation in (("padded", "sdpa"), ("packed", attention)):
        causal_lm.set_attn_implementation(implementation)
        inputs = model_inputs(batch, layout, torch.device("cuda"))
        logprobs.append(model(**inputs, temperature=1.0)[0])
        weights = causal_lm.model.layers[0].self_attn.k_proj.weight
        gradients.append(torch.autograd.grad(logprobs[-1].sum(), weights)[0])
    torch.testing.assert_close(logprobs[1], logprobs[0], rtol=tolerance, atol=tolerance)
    difference = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert difference < tolerance


def test_the_head_never_holds_all_logits():
    import torch

    from archer.algos.logprobs import chunked_logprobs

    num_tokens, hidden_size, vocab_size = 16384, 1024, 151936
    hidden = torch.randn(
        num_tokens, hidden_size, device="cuda", dtype=torch.bfloat16, requires_grad=True
    )
    weight = torch.randn(
        vocab_size, hidden_size, device="cuda", dtype=torch.bfloat16, requires_grad=True
    )
    targets = torch.randint(vocab_size, (num_tokens,), device="cuda")
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    logprobs, *_ = chunked_logprobs(hidden, weight, targets, 1.0)
    logprobs.sum().backward()
    peak = torch.cuda.max_memory_allocated() - before
    assert peak < num_tokens * vocab_size * 2  # the logits alone, in bfloat16
