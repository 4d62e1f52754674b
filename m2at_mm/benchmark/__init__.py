"""How fast a training iteration is, beside what else there is."""

from m2at_mm.benchmark.communication import time_all_reduce
from m2at_mm.benchmark.contestants import RIVALS, Contestant, build_rivals
from m2at_mm.benchmark.flops import flops_per_iteration, peak_flops
from m2at_mm.benchmark.from_runner import rivals_of, switches_of
from m2at_mm.benchmark.interleaving import Interleaving
from m2at_mm.benchmark.parts import PARTS, PartClock
from m2at_mm.benchmark.summary import summarise, to_table
from m2at_mm.benchmark.validation import time_validation

__all__ = [
    'PARTS',
    'RIVALS',
    'Contestant',
    'Interleaving',
    'PartClock',
    'build_rivals',
    'flops_per_iteration',
    'peak_flops',
    'rivals_of',
    'summarise',
    'switches_of',
    'time_all_reduce',
    'time_validation',
    'to_table',
]
