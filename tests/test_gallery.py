"The contract that every method of the gallery meets: two steps each, in one piece and in many."
import pytest

from hir.training.config import methods
from hir.files import shipped
from hir.policies.policy import load_policy
from hir.training.runlog import read_log
from test_launch import RUNS, alone, launch_runs
from test_methods import METHODS, run, same, weights, far

GALLERY = sorted(set(methods()) - {m['name'] for m in METHODS.values()})
SETTINGS = {}
every_neighbour = pytest.mark.parametrize('name', GALLERY)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    for name in GALLERY: monkeypatch.setitem(METHODS, name, {'name': name} | SETTINGS.get(name, {}))


@every_neighbour
def test_a_step_in_pieces_is_the_step_in_one(tmp_path, name):
    same(run(name, tmp_path/'one', micro=1), run(name, tmp_path/'all', micro=1000))


@every_neighbour
def test_it_learns_with_adapters_alone(tmp_path, name):
    found, history, _ = run(name, tmp_path, lora_rank=2, lr=.3)
    assert far(found, weights(load_policy(shipped('toy/start'))[0])) > 1e-4


VARIANTS = {'sdpo rewritten': dict(name='sdpo', reads='rewritten'), 'ilf self': dict(name='ilf', critic='self', K=2), 'coh chain': dict(name='coh', form='chain'),
            'p3o joint': dict(name='p3o', clipping='joint', beta=.01), **{f'phf {o}': dict(name='phf', objective=o) for o in ('mle', 'filter', 'unlikelihood', 'rwr', 'awr')}}


@pytest.mark.parametrize('name', VARIANTS)
def test_a_variant_in_pieces_is_the_variant_in_one(tmp_path, monkeypatch, name):
    monkeypatch.setitem(METHODS, name, VARIANTS[name])
    same(run(name, tmp_path/'one', micro=1), run(name, tmp_path/'all', micro=1000))


# ---- two processes, for five that differ in kind: a second draw under other prompts, an average that teaches, prompts drawn in addition, pairs of all
# steps so far, texts with a mask of their own

KINDS = ['herl', 'sdpo', 'dapo', 'online_dpo', 'coh']
SAME = dict(reward='cla', lr=.1, optimizer='torch.optim:SGD', steps=2)


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp('two')
    launch_runs('ddp', folder, RUNS + 'runs()', {name: dict(SAME, method={'name': name}) for name in KINDS})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('name', KINDS)
def test_two_processes_are_one(tmp_path, both, name):
    alone(tmp_path, method={'name': name}, **SAME)
    def of(folder): return weights(load_policy(folder/'policy')[0]), read_log(folder/'history.jsonl'), read_log(folder/'rollouts.jsonl')
    same(of(tmp_path/'one'), of(both/name))
