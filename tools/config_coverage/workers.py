"""Runs attempts in processes of their own, within time and memory."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from config_coverage.attempt import Outcome, try_config


def run_all(
    configs: Sequence[str],
    recipe: str,
    images: Path,
    jobs: int = 2,
    seconds: float = 600.0,
) -> Iterator[Outcome]:
    """Attempt every config, in order, each in a fork of this process.

    A process of its own gives its memory back and can die alone; a fork
    doesn't import everything again. ``jobs`` are made at a time, each with
    one thread and within some seconds.
    """
    torch.set_num_threads(1)  # before the forks: threads don't survive one
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(
            lambda config: _run(config, recipe, images, seconds), configs
        )


def _run(config: str, recipe: str, images: Path, seconds: float) -> Outcome:
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_report, args=(sender, config, recipe, images)
    )
    process.start()
    sender.close()  # so that the other end's closing is noticed
    try:
        if receiver.poll(seconds):
            outcome: Outcome = receiver.recv()
            return outcome
        note = f'no result within {seconds:g} s'
    except EOFError:
        process.join()
        note = f'its process ended with exit code {process.exitcode}'
    finally:
        process.kill()
        process.join()
    return Outcome(config, '', 'fails', note)


def _report(sender: Any, config: str, recipe: str, images: Path) -> None:
    # MMEngine formats a config for its log again and again, for seconds.
    Config.pretty_text = property(repr)
    sender.send(try_config(config, recipe, images))
