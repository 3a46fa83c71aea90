"""archer: reinforcement learning with verifiable rewards for large language models."""

__version__ = "0.1.0"
