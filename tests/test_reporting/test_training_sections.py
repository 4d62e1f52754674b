from dataclasses import replace

from report_support import Page

from m2at_mm.reporting import Report, read_run
from m2at_mm.reporting import training_sections as sections


def test_overview(report: Report) -> None:
    ((head, first, second),) = Page(sections.overview(report)).tables
    names = ['run', 'method', 'network', 'data', 'eps', 'seed', 'trained']
    assert head == names
    trained = '3 epochs of 4'
    assert first == ['one', 'M2AT', '–', '–', '8/255', '–', trained]
    assert second[1] == 'PGDAT'


def test_settings_differ_or_are_folded(report: Report) -> None:
    page = Page(sections.settings(report))
    row = ['model.method.type', 'm2at_mm.M2AT', 'm2at_mm.PGDAT']
    assert page.tables[0][1:] == [row]
    assert ['train_cfg.max_epochs', '4'] in page.tables[1]
    assert len(page.all('details')) == 1
    alone = Page(sections.settings(Report(report.runs[:1])))
    assert len(alone.tables) == len(alone.all('details')) == 1
    same = Page(sections.settings(Report([report.runs[0]] * 2)))
    assert 'All settings are the same.' in same.text


def test_differing_common_and_missing_settings() -> None:
    shared = dict(milestones=[8, 11], empty={})
    m2at = dict(method=dict(type='M2AT', scale=1.5), _scope_='a')
    hooks, others = ([dict(type='A'), dict(type=k)] for k in 'BC')
    first = dict(model=m2at, hooks=hooks, work_dir='one', **shared)
    pgdat = dict(method=dict(type='PGDAT'))
    second = dict(model=pgdat, hooks=others, work_dir='two', **shared)
    different, common = sections.compare_settings([first, second])
    assert different == {
        'model.method.type': ('M2AT', 'PGDAT'),
        'model.method.scale': ('1.5', None),
        'hooks.1.type': ('B', 'C'),
    }
    expected = {'milestones': '[8, 11]', 'empty': '{}'}
    assert common == {'hooks.0.type': 'A'} | expected
    alone = sections.compare_settings([dict(a=1, b=dict(c=None))])
    assert alone == ({}, {'a': '1', 'b.c': 'None'})


def test_best_last_and_what_was_lost(report: Report) -> None:
    found = [run.best_and_last for run in report.runs]
    assert found == [(2.0, 3.0), (1.0, 3.0)]
    page = Page(sections.curves(report))
    assert len(page.all('svg')) == 5  # loss, lr, clean, pgd10, worst
    row = ['one', 'robust/pgd10', '30.00 epoch 2', '25.00 epoch 3', '5.00']
    assert page.tables[0][1] == row


def test_the_share_is_drawn_after_scaling(report: Report) -> None:
    m2at, pgdat = (run.config for run in report.runs)
    average = dict(m2at, model=dict(method=dict(type='m2at_mm.AVmixup')))
    unknown = dict(m2at, model=dict(method=dict(type='elsewhere.Other')))
    log = {'kept_share': {1.0: 0.5}}
    for config, share in (
        (m2at, 0.75),  # its scale is 1.5
        (average, 1.0),  # gamma is 2 by default
        (unknown, 0.5),
        ({}, 0.5),
    ):
        run = replace(report.runs[0], config=config, training=log)
        page = Page(sections.curves(Report([run])))
        assert f'{run.name}: {share:g} at epoch 1' in page.text
    run = replace(report.runs[1], config=pgdat)
    assert 'kept' not in Page(sections.curves(Report([run]))).text


def test_unlike_validations_are_told(report: Report) -> None:
    first, second = report.runs
    told = 'The validations differ in'
    assert told not in Page(sections.curves(report)).text
    model = dict(first.config['model'])
    model['threat_model'] = dict(norm='linf', eps='4/255')
    other = replace(second, config=dict(second.config, model=model))
    page = Page(sections.curves(Report([first, other])))
    assert f'{told} model.threat_model.eps: do not compare' in page.text


def test_environment_and_commands(report: Report) -> None:
    page = Page(sections.origin(report))
    for row in (['commit', 'abc123', 'abc123'], ['seed', '7', '7']):
        assert row in page.tables[0]
    assert page.text.count("python tools/train.py 'a b.py'") == 2
    folder = report.runs[0].folder
    (config,) = folder.glob('*/vis_data/config.py')
    test = f'python tools/test.py {config} {folder / "epoch_3.pth"} --attacks '
    test += 'clean fgsm pgd20 --eps 8/255 --num-samples 100 --seed 4'
    assert test in page.text
    next(folder.glob('*/*.log')).write_text('nothing')
    page = Page(sections.origin(Report([read_run(folder)])))
    assert page.tables[0][1:] == [['commit', 'not in the log']]
    assert f'python tools/train.py {config} --work-dir ' in page.text
