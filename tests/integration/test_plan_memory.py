"""The plan's account against a real rank: DeepSpeed, two micro-batches, two optimizer steps."""

import pytest

from archer.planning.memory_model import REDUCE_BUCKET, ZeroRank
from benchmarks.plan_memory import GOAL, NOTHING, RETURN_FREED, SHAPE, Case, configure, measure


def test_a_rank_takes_what_the_plan_says():
    case = Case("small", zero_stage=2, micro_batch_tokens=512)
    account = ZeroRank(configure(case, "cpu"), SHAPE).peak()
    without, whole = (measure(case, shape, "cpu", RETURN_FREED) for shape in (NOTHING, SHAPE))
    assert account.total - account.runtime == pytest.approx(whole - without, rel=GOAL)


def test_the_bucket_is_that_of_deepspeed():
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    assert DeepSpeedZeroConfig.model_fields["reduce_bucket_size"].default == REDUCE_BUCKET
