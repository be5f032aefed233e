"""Folders of language models: saving, loading, and checks of their files."""

from tfppo.text.presets.folder import default_preset, load_preset, save_preset

__all__ = ["default_preset", "load_preset", "save_preset"]
