"Launch files: accelerate takes each of them, and runs started with them are the run of one process."
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

import hir
from hir.checkpoint import checkpoints
from hir.cli import config_files, main
from hir.config import make_config, read_config, save_config
from hir.instruction import load_instructions
from hir.policy import load_policy
from hir.runlog import read_log
from hir.toy import shipped
from hir.trainer import fit

LAUNCH = dict(single='NO', ddp='MULTI_GPU', multinode='MULTI_GPU', fsdp2='FSDP', zero3='DEEPSPEED')
TOY = Path(hir.__file__).parent/'configs'/'toy.yaml'
BASE = make_config(dict(model=str(shipped('toy/start')), batch=5, steps=2, m=3, k=1, eval_every=0, cards_every=0, heldout='',
                        kl_coef=.01, lr=5e-5, max_new_tokens=16, micro=8), base=read_config(TOY))


@pytest.mark.parametrize('name', LAUNCH)
def test_accelerate_takes_the_file_and_its_command_line_wins(name, capsys):
    assert main(['config', name]) == 0
    path = capsys.readouterr().out.strip()
    assert load_config_from_file(path).distributed_type.value == LAUNCH[name]
    words = ['--config_file', path, '--num_processes', '3', '--main_process_port', '29511', 'train.py']
    args = _validate_launch_command(launch_command_parser().parse_args(words))[0]
    assert (args.num_processes, args.main_process_port) == (3, 29511)
    assert args.use_fsdp == (name == 'fsdp2') and args.use_deepspeed == (name == 'zero3')
    assert args.num_machines == (2 if name == 'multinode' else 1) and args.mixed_precision == 'no'
    if name == 'fsdp2':
        assert int(args.fsdp_version) == 2
    if name == 'zero3':
        assert int(args.zero_stage) == 3


def test_every_file_says_in_its_first_line_what_it_is_for():
    assert set(LAUNCH) | {'toy'} <= set(config_files())
    for name, path in config_files().items():
        assert path.read_text(encoding='utf-8').startswith('# '), name


# ---- runs

def environment(**more):
    return dict(os.environ, OMP_NUM_THREADS='1', TQDM_DISABLE='1', HF_HUB_OFFLINE='1', **more)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])


def launch(name, *words, processes=2, **more):
    "A started `accelerate launch` with a shipped file."
    command = [sys.executable, '-m', 'accelerate.commands.launch', '--config_file', str(config_files()[name]),
               '--num_processes', str(processes), *words]
    return subprocess.Popen(command, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(child, seconds=300):
    said = child.communicate(timeout=seconds)[0]
    assert child.returncode == 0, said[-3000:]
    return said


def settings(tmp_path, name, **changes):
    path = tmp_path/f'{name}.yaml'
    train = tmp_path/'train.jsonl'
    train.write_text(''.join(Path(shipped('toy/train.jsonl')).read_text().splitlines(True)[:48]))
    save_config(replace(BASE, train=str(train), out=str(tmp_path/name), **changes), path)
    return str(path)


def alone(tmp_path, **changes):
    "The same run in this process."
    settings(tmp_path, 'one', **changes)
    model, tokenizer = load_policy(BASE.model)
    cfg = replace(BASE, out=str(tmp_path/'one'), **changes)
    fit(cfg, model, tokenizer, load_instructions(tmp_path/'train.jsonl'), progress=False)
    return tmp_path/'one'


def weights(folder):
    return torch.cat([p.detach().flatten() for p in load_policy(folder/'policy')[0].parameters()])


def same_run(one, two, eps=1e-5):
    start = torch.cat([p.detach().flatten() for p in load_policy(BASE.model)[0].parameters()])
    assert (weights(one) - start).abs().max() > 1e-4               # the run moves the weights by more than it may differ
    assert (weights(one) - weights(two)).abs().max() < eps
    for ours, theirs in zip(read_log(one/'history.jsonl'), read_log(two/'history.jsonl'), strict=True):
        for key in ('loss', 'reward', 'cla', 'kl', 'entropy', 'grad_norm', 'clip/replay'):
            assert ours[key] == pytest.approx(theirs[key], abs=eps), key
        assert (ours['sampled'], ours['replays'], ours['candidates']) == tuple(
            theirs[k] for k in ('sampled', 'replays', 'candidates'))
    rows = [[(r['row'], r['response'], r['reward']) for r in read_log(f/'rollouts.jsonl')] for f in (one, two)]
    assert rows[0] == rows[1]


@pytest.mark.slow
@pytest.mark.parametrize('changes', [
    dict(),                                # five instructions on two processes: three and two
    dict(batch=1, m=2, minibatches=3),     # the second process samples nothing; minibatches of one row
], ids=['uneven', 'fewer rows than processes'])
def test_two_processes_of_ddp_are_one(tmp_path, changes):
    finished(launch('ddp', '--main_process_port', free_port(), '-m', 'hir', 'train', '--config',
                    settings(tmp_path, 'two', **changes)))
    same_run(alone(tmp_path, **changes), tmp_path/'two')


@pytest.mark.slow
def test_two_machines_are_one(tmp_path):
    "Two launchers on this host, each told that it is one of two machines."
    path, port = settings(tmp_path, 'two'), free_port()
    both = [launch('multinode', '--machine_rank', rank, '--main_process_ip', '127.0.0.1', '--main_process_port', port,
                   '-m', 'hir', 'train', '--config', path) for rank in '01']
    for child in both:
        finished(child)
    same_run(alone(tmp_path), tmp_path/'two')


@pytest.mark.slow
def test_machines_that_do_not_share_the_folder_are_told(tmp_path):
    path, port = settings(tmp_path, 'two'), free_port()
    both = [launch('multinode', '--machine_rank', rank, '--main_process_ip', '127.0.0.1', '--main_process_port', port,
                   '-m', 'hir', 'train', '--config', path, '--out', str(tmp_path/f'disk{rank}')) for rank in '01']
    for child in both:
        said = child.communicate(timeout=200)[0]
        assert child.returncode and 'a folder that all machines share' in said, said[-2000:]


@pytest.mark.slow
def test_processes_without_a_device_are_refused(tmp_path):
    if torch.cuda.is_available():
        pytest.skip('this machine has GPUs for the processes')
    child = launch('ddp', '--main_process_port', free_port(), '-m', 'hir', 'train', '--config', settings(tmp_path, 'two'),
                   '--cpu', 'false')
    said = child.communicate(timeout=200)[0]
    assert child.returncode and 'set cpu to true' in said, said[-2000:]


# accelerate shards only on accelerators: on the CPU it runs fsdp2.yaml and zero3.yaml as DDP. The script makes it shard.
SHARDED = '''
import sys
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
started = AcceleratorState.__init__
def start(self, *args, **kw):
    fresh = not self._shared_state or not self.initialized
    started(self, *args, **kw)
    if fresh and kw.get('fsdp_plugin'):
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, kw['fsdp_plugin']
    elif fresh:
        from deepspeed import comm
        comm.init_distributed(dist_backend='gloo', auto_mpi_discovery=False)
        self.distributed_type, self.deepspeed_plugins = DistributedType.DEEPSPEED, kw['deepspeed_plugin']
        kw['deepspeed_plugin'].set_mixed_precision('no')
        kw['deepspeed_plugin'].select(_from_accelerator_state=True)
    if fresh: PartialState._shared_state['distributed_type'] = self.distributed_type
AcceleratorState.__init__ = start
from torch.distributed.tensor import DTensor
from hir.processes import is_sharded, is_zero3
import hir.trainer
prepared = hir.trainer.prepare
def prepare(*args):
    parts = prepared(*args)
    for model in (parts.policy, parts.reference):                # its root stays whole after a forward pass
        zero3 = is_zero3(parts.accelerator)
        assert is_sharded(parts.accelerator)
        assert any(hasattr(p, 'ds_tensor') if zero3 else isinstance(p, DTensor) for p in model.parameters())
    return parts
hir.trainer.prepare = prepare
from hir.cli import main
raise SystemExit(main(sys.argv[1:]))
'''


@pytest.mark.slow
@pytest.mark.parametrize('name', ['fsdp2', 'zero3'])
def test_weights_in_pieces_are_one_process_and_resume(tmp_path, name):
    "Sharded policy and reference; stopped after a step and resumed; the save is a transformers folder."
    if name == 'zero3':
        pytest.importorskip('deepspeed')
    (tmp_path/'sharded.py').write_text(SHARDED)
    for words in (['--steps', '1'], ['--steps', '2', '--resume', 'auto']):
        finished(launch(name, '--main_process_port', free_port(), str(tmp_path/'sharded.py'), 'train', '--config',
                        settings(tmp_path, 'two'), *words, DS_ACCELERATOR='cpu'))
    assert len(checkpoints(tmp_path/'two')) == 2
    same_run(alone(tmp_path), tmp_path/'two', eps=1e-4)
