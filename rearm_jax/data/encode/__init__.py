"""Encoders of texts and pictures, and `python -m rearm_jax.data.encode`, which adds features to a folder of data."""

from rearm_jax.data.encode.encoder import (
    CACHE_DIR,
    IMAGE_MODEL,
    TEXT_MODEL,
    check_encoder_installed,
    encode_images,
    encode_texts,
    find_model,
)

__all__ = [
    "CACHE_DIR",
    "IMAGE_MODEL",
    "TEXT_MODEL",
    "check_encoder_installed",
    "encode_images",
    "encode_texts",
    "find_model",
]
