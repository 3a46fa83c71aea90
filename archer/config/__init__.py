"""The configuration: its keys, how they are checked, and the command line that sets them."""

from pathlib import Path

CONF = Path(__file__).parents[2] / "conf"
"""The folder of Hydra presets, beside the package in a checkout."""
