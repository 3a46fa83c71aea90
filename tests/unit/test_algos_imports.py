"""What importing the objectives may cost."""

import subprocess
import sys
from pathlib import Path

PRESETS = Path(__file__).parents[2] / "conf" / "algo"

BLOCK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "vllm", "deepspeed", "transformers", *sys.argv[2:]}:
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
"""

RESOLVE_EVERY_PRESET = """
from pathlib import Path
from omegaconf import OmegaConf
from archer.algos import OBJECTIVES, resolve_algorithm
from archer.config.keys import AlgoConfig

presets = sorted(Path(sys.argv[1]).glob("*.yaml"))
assert len(presets) >= len(OBJECTIVES)
for preset in presets:
    algo = AlgoConfig.model_validate(OmegaConf.to_container(OmegaConf.load(preset)))
    algorithm = resolve_algorithm(algo)
    assert algorithm.needs >= algorithm.objective.needs(algorithm.loss_config)
assert "torch" not in sys.modules
"""


def run_without(script: str, *packages: str) -> None:
    """Run a script where Ray, vLLM, DeepSpeed, transformers and these packages are absent."""
    command = [sys.executable, "-c", BLOCK + script, str(PRESETS), *packages]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr


def test_objectives_import_where_ray_vllm_and_deepspeed_are_absent():
    run_without("import archer.algos, archer.algos.logprobs")


def test_objectives_are_checked_where_ray_vllm_and_deepspeed_are_absent():
    run_without(
        "sys.argv = ['check_objective', 'archer']\n"
        "from archer.check_objective import load_subject\n"
        "from archer.objective_checks.checks import CHECKS\n"
        "assert CHECKS[0].run(load_subject(['archer'])).has_passed"
    )


def test_the_driver_resolves_every_preset_without_torch():
    run_without(RESOLVE_EVERY_PRESET, "torch")
