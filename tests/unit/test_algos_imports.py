"""What importing the objectives may cost."""

import subprocess
import sys

BLOCK_AND_IMPORT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "vllm", "deepspeed", "transformers", *sys.argv[1:]}:
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
import archer.algos
archer.algos.OBJECTIVES["archer"].config()
if "torch" not in sys.argv:
    import archer.algos.logprobs
"""


def import_without(*packages: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", BLOCK_AND_IMPORT, *packages],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_objectives_import_where_ray_vllm_and_deepspeed_are_absent():
    result = import_without()
    assert result.returncode == 0, result.stderr


def test_the_driver_reads_objective_configs_without_torch():
    result = import_without("torch")
    assert result.returncode == 0, result.stderr
