"""Checkpoints: the official .pkl files, read without executing them, and a safe format."""

from eg3d_renderer.checkpoints.checkpoint import Checkpoint
from eg3d_renderer.checkpoints.folders import digest, read_folder, save_checkpoint
from eg3d_renderer.checkpoints.official import read_official

__all__ = ["Checkpoint", "digest", "read_folder", "read_official", "save_checkpoint"]
