"""The results of an evaluation, as a file and as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from m2at_mm.attacks import ThreatModel
from m2at_mm.evaluation.alarms import find_alarms


def make_results(
    metrics: dict[str, float], num_samples: int, threat_model: ThreatModel
) -> dict[str, Any]:
    """Collect the figures of :class:`RobustAccuracy`.

    Args:
        metrics (dict[str, float]): What the metric reported, in per cent.
        num_samples (int): Number of images behind them.
        threat_model (ThreatModel): What the attacks were allowed.

    Returns:
        dict: ``clean``, ``attacks`` by name and ``worst_case`` in per cent,
        ``num_samples``, ``threat_model`` and ``alarms``.
    """
    figures = {
        name.partition('/')[2]: value
        for name, value in metrics.items()
        if name.startswith('robust/')
    }
    worst = figures.pop('worst')
    alarms = find_alarms(figures, num_samples)
    return dict(
        clean=figures.pop('clean'),
        attacks=figures,
        worst_case=worst,
        num_samples=num_samples,
        threat_model=threat_model.to_dict(),
        alarms=[vars(alarm) for alarm in alarms],
    )


def write_results(results: dict[str, Any], path: Path) -> None:
    """Write results as JSON; a file that is there is kept as ``*.old``.

    Args:
        results (dict): Of :func:`make_results`.
        path (Path): The file. Its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        kept = path.with_name(path.name + '.old')
        path.replace(kept)
        print(f'the previous {path} is now {kept}')
    path.write_text(json.dumps(results, indent=2) + '\n', encoding='utf-8')
    print(f'results: {path}')


def print_results(results: dict[str, Any]) -> None:
    """Print results as a table, with the alarms under it."""
    threat = results['threat_model']
    table = Table(
        title=f'{results["num_samples"]} images, {threat["norm"]}, '
        f'eps {threat["eps"] * 255:g}/255'
    )
    table.add_column('attack')
    table.add_column('accuracy (%)', justify='right')
    rows = {
        'clean': results['clean'],
        **results['attacks'],
        'worst case': results['worst_case'],
    }
    for name, accuracy in rows.items():
        table.add_row(name, f'{accuracy:.2f}')
    console = Console()
    console.print(table)
    for alarm in results['alarms']:
        console.print(f'ALARM {alarm["name"]}: {alarm["message"]}')
