"""Robust checkpoints of other projects, and ours for others."""

from m2at_mm.exchange.export import (
    CLAIM_FIELDS,
    PlainClassifier,
    export_onnx,
    export_program,
    export_state_dict,
    make_claim,
)
from m2at_mm.exchange.layouts import Imported, import_checkpoint

__all__ = [
    'CLAIM_FIELDS',
    'Imported',
    'PlainClassifier',
    'export_onnx',
    'export_program',
    'export_state_dict',
    'import_checkpoint',
    'make_claim',
]
