"""Iterations of several kinds, timed in turns: precision, batch, compilation.

python docs/results/gpu/speed.py [CONFIG] --out speed.json
"""

import argparse
import copy
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device, is_cuda_available
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from m2at_mm import cli
from m2at_mm.attacks.batch_norm_folding import no_folding
from m2at_mm.files import write_whole
from m2at_mm.registry import MODELS
from m2at_mm.structures import BatchLabels

sys.path.append(str(Path(__file__).resolve().parents[3] / 'tools'))
from benchmarking.rivals import Limit, PlainLoop, Script
from benchmarking.summary import count_flops, peak_flops
from benchmarking.timing import now

LOOPS = {'plain loop': PlainLoop, 'script loop': Script}
#: Ours, by the compile_mode of the attack.
MODES = {
    'eager': None,  # without folding
    'folded': None,
    'compiled': 'default',
    'CUDA graphs': 'reduce-overhead',
}
#: The most important first: what there is no time for is left out.
KINDS = [
    'folded, bfloat16',
    'plain loop, float32',
    'CUDA graphs, bfloat16',
    'script loop, float32',
    'folded, float32',
    'eager, bfloat16',
    'compiled, bfloat16',
    'eager, float32',
    'CUDA graphs, float32',
    'compiled, float32',
]
Iterate = Callable[[], Any]


def parse_args() -> argparse.Namespace:
    """What is timed, and for how long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config', nargs='?', default='configs/pgd-at_resnet18_cifar10.py'
    )
    parser.add_argument('--batches', nargs='+', type=int, default=[512, 128])
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=KINDS)
    parser.add_argument(
        '--rounds', type=int, default=5, help='at most, as time allows'
    )
    parser.add_argument('--block', type=int, default=5)
    parser.add_argument(
        '--seconds', type=float, default=80.0, help='for all batches together'
    )
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args()


def make_ours(
    cfg: Config, model: Any, batch: dict[str, Any], mode: str, precision: str
) -> Iterate:
    """An iteration of the Runner without its hooks, from pinned pixels."""
    model = copy.deepcopy(model)
    model.train_attack.compile_mode = MODES[mode]
    cfg = copy.deepcopy(cfg)
    if precision == 'bfloat16':
        cfg.optim_wrapper.dtype = precision
        cli.use_amp(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)

    def iterate() -> None:
        with no_folding() if mode == 'eager' else nullcontext():
            model.train_step(batch, wrapper)

    return iterate


def random_batch(num: int) -> dict[str, Any]:
    """Pixels as a dataloader gives them, pinned where there is a GPU."""
    pixels = torch.randint(256, (num, 3, 32, 32), dtype=torch.uint8)
    labels = BatchLabels(torch.randint(10, (num,)))
    if torch.cuda.is_available():
        pixels, labels = pixels.pin_memory(), labels.pin_memory()
    return dict(inputs=pixels, data_samples=labels)


def prepare(
    cfg: Config, model: Any, num: int, kinds: Sequence[str], deadline: float
) -> dict[str, tuple[Iterate, float]]:
    """By kind an iteration, and the seconds of its first three."""
    batch = random_batch(num)
    device = next(model.parameters()).device
    images = batch['inputs'].to(device) / 255
    labels = batch['data_samples'].labels.to(device)
    made = {}
    for kind in kinds:
        if time.monotonic() > deadline:
            print(f'batch {num}: no time for {kind}', flush=True)
            continue
        name, precision = kind.split(', ')
        since = now()
        if name in LOOPS:
            iterate: Iterate = LOOPS[name](model, images, labels)
        else:
            iterate = make_ours(cfg, model, batch, name, precision)
        for _ in range(3):
            iterate()
        made[kind] = iterate, now() - since
        print(f'batch {num}: {kind}: {made[kind][1]:.1f} s', flush=True)
    return made


def measure(
    made: dict[str, tuple[Iterate, float]],
    rounds: int,
    block: int,
    deadline: float,
) -> dict[str, Any]:
    """Blocks of iterations in turns; the median of the rounds."""
    times: dict[str, list[float]] = {kind: [] for kind in made}
    memory = dict.fromkeys(made, 0)
    for number in range(rounds):
        if number and time.monotonic() > deadline:
            break
        for kind, (iterate, _) in made.items():
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()
            since = now()
            for _ in range(block):
                iterate()
            times[kind].append((now() - since) / block)
            if torch.cuda.is_available():
                peak = torch.cuda.max_memory_allocated() - held
                memory[kind] = max(memory[kind], peak)
    return {
        kind: dict(
            seconds=median(times[kind]),
            range=[min(times[kind]), max(times[kind])],
            first_three_seconds=made[kind][1],
            peak_memory_bytes=memory[kind],
        )
        for kind in made
    }


def main() -> None:
    """Time each batch size, and write after each."""
    args = parse_args()
    start = time.monotonic()
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    init_default_scope('mmpretrain')
    logging.disable(logging.INFO)  # of each weight's start
    torch.manual_seed(0)
    model: Any = MODELS.build(cli.model_config(cfg))
    model.init_weights()
    two = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    flops = count_flops(Limit(model, *two)) // 2
    model = model.to(get_device()).train()
    results: dict[str, Any] = dict(
        config=Path(args.config).name,
        options={k: str(v) for k, v in (args.cfg_options or {}).items()},
        device=torch.cuda.get_device_name() if is_cuda_available() else '',
        torch=torch.__version__,
        flops_per_image=flops,
        peak_flops=peak_flops(),
        batches={},
    )
    for index, num in enumerate(args.batches):
        end = start + (index + 1) * args.seconds / len(args.batches)
        # Half of the time is left for the rounds.
        middle = (time.monotonic() + end) / 2
        made = prepare(cfg, model, num, args.kinds, middle)
        found = measure(made, args.rounds, args.block, end)
        for one in found.values():
            one['images_per_second'] = num / one['seconds']
            if results['peak_flops']:
                speed = flops * num / one['seconds']
                one['share_of_peak'] = speed / results['peak_flops']
        results['batches'][num] = found
        text = json.dumps(results, indent=1) + '\n'
        write_whole(args.out, lambda path, text=text: path.write_text(text))
        for kind, one in found.items():
            print(
                f'batch {num}: {kind:>22}: {1000 * one["seconds"]:8.1f} ms '
                f'{one["images_per_second"]:9.0f} images/s',
                flush=True,
            )


if __name__ == '__main__':
    main()
