"Launch files: accelerate takes each of them, and runs started with them are the run of one process."
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState

import hir
from changed import changed, dotted
from hir.training.checkpoint import checkpoints
from hir.cli import config_files, main
from hir.training.config import make_config, read_config, save_config
from hir.instructions.instruction import load_instructions
from hir.policies.policy import load_policy
from hir.policies.engines.hf import HFEngine
from hir.training.runlog import read_log
from hir.files import shipped
from hir.training.trainer import fit

LAUNCH = dict(single='NO', ddp='MULTI_GPU', multinode='MULTI_GPU', fsdp2='FSDP', zero3='DEEPSPEED')
TOY = Path(hir.__file__).parent/'configs'/'toy.yaml'
BASE = make_config(dotted(model=str(shipped('toy/start')), batch=5, steps=2, m=3, k=1, eval_every=0, cards_every=0, heldout='',
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
    save_config(changed(BASE, train=str(train), out=str(tmp_path/name), **changes), path)
    return str(path)


def alone(tmp_path, **changes):
    "The same run in this process, which another run may have set to another precision."
    settings(tmp_path, 'one', **changes)
    cfg = changed(BASE, out=str(tmp_path/'one'), **changes)
    model, tokenizer = load_policy(BASE.model, dtype=cfg.dtype)
    AcceleratorState._reset_state(reset_partial_state=True)
    try: fit(cfg, model, tokenizer, load_instructions(tmp_path/'train.jsonl'), progress=False)
    finally: AcceleratorState._reset_state(reset_partial_state=True)
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


# Several runs in the same processes, which costs one start. Leaves what went wrong, and what an engine with a copy of the
# weights was handed last.
RUNS = '''
import os, sys
import torch
from accelerate.state import AcceleratorState, PartialState
from dataclasses import replace
from hir.training.config import read_config
from hir.instructions.instruction import load_instructions
from hir.policies.policy import load_policy
from hir.policies.processes import LaunchError
import hir.policies.policy, hir.training.trainer
rank, copies = os.environ['RANK'], []
prepared = hir.training.trainer._prepare_job
def prepare(*args):
    parts = prepared(*args)
    copies.append(getattr(parts.engine, 'llm', None))
    return parts
hir.training.trainer._prepare_job = prepare
def run(path):
    AcceleratorState._reset_state(reset_partial_state=True)
    cfg = read_config(path, trust=True)
    cfg = replace(cfg, out=cfg.out.replace('RANK', rank))
    model, tokenizer = load_policy(cfg.model, dtype=cfg.dtype)
    try: hir.training.trainer.fit(cfg, model, tokenizer, load_instructions(cfg.train), lambda engine: {}, progress=False)
    except LaunchError as e: open(f'{path}.{rank}', 'w').write(str(e))
    if copies[-1]: torch.save(copies[-1].model.state_dict(), f'{cfg.out}/sent{rank}.pt')
def runs():
    for path in sys.argv[1:]: run(path)
    PartialState().destroy_process_group()
'''


def launch_runs(launcher, folder, script, cases, twice=False):
    "Runs of one launch, each with its settings; `twice`: those of two steps are stopped after one and resumed."
    (folder/'runs.py').write_text(script)
    paths = []
    for name, changes in cases.items():
        for s in range(1, changes['steps'] + 1) if twice else [changes.get('steps', BASE.steps)]:
            path = settings(folder, name, **changes | dict(steps=s, resume='auto'))
            paths.append(shutil.copy(path, folder/f'{name}{s}'))
    finished(launch(launcher, '--main_process_port', free_port(), str(folder/'runs.py'), *map(str, paths), DS_ACCELERATOR='cpu',
                    PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')])))


DDP = {'uneven': dict(),                                             # five instructions on two processes: three and two
       'fewer rows than processes': dict(batch=1, m=2, minibatches=3),   # the second samples nothing; minibatches of one row
       'disk RANK': dict()}                                          # two folders


@pytest.fixture(scope='module')
def ddp(tmp_path_factory):
    "Folder of runs of two DDP processes."
    folder = tmp_path_factory.mktemp('ddp')
    launch_runs('ddp', folder, RUNS + 'runs()', DDP)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('name', ['uneven', 'fewer rows than processes'])
def test_two_processes_of_ddp_are_one(tmp_path, ddp, name): same_run(alone(tmp_path, **DDP[name]), ddp/name)


@pytest.mark.slow
def test_processes_that_do_not_share_the_folder_are_told(ddp):
    for rank in '01': assert 'a folder that all machines share' in (ddp/f'disk RANK2.{rank}').read_text()


@pytest.mark.slow
def test_two_machines_are_one(tmp_path):
    "Two launchers on this host, each told that it is one of two machines."
    path, port = settings(tmp_path, 'two'), free_port()
    both = [launch('multinode', '--machine_rank', rank, '--main_process_ip', '127.0.0.1', '--main_process_port', port,
                   '-m', 'hir', 'train', '--trust', '--config', path) for rank in '01']
    for child in both:
        finished(child)
    same_run(alone(tmp_path), tmp_path/'two')


@pytest.mark.slow
def test_processes_without_a_device_are_refused(tmp_path):
    if torch.cuda.is_available():
        pytest.skip('this machine has GPUs for the processes')
    child = launch('ddp', '--main_process_port', free_port(), '-m', 'hir', 'train', '--trust', '--config', settings(tmp_path, 'two'),
                   '--cpu', 'false')
    said = child.communicate(timeout=200)[0]
    assert child.returncode and 'set cpu to true' in said, said[-2000:]


# accelerate shards only on accelerators: on the CPU it runs fsdp2.yaml and zero3.yaml as DDP. The script makes it shard.
SHARDED = RUNS + '''
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from hir.policies.processes import is_sharded, _is_zero3
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
whole = hir.training.trainer._prepare_job
def prepare(*args):
    parts = whole(*args)
    for model in (parts.policy, getattr(parts.reference, 'policy', parts.reference)):
        zero3 = _is_zero3(parts.accelerator)
        assert is_sharded(parts.accelerator) and parts.accelerator.unwrap_model(model).chunk == 50
        assert any(hasattr(p, 'ds_tensor') if zero3 else isinstance(p, DTensor) for p in model.parameters())   # not all: the
    return parts                                                     # root stays whole after a forward pass
hir.training.trainer._prepare_job = prepare
hir.policies.policy.LOGITS = 203*50                                           # 50 tokens of the toy are projected at a time
runs()
sys.stdout.flush()
os._exit(0)   # an operation of DTensors keeps the destroyed group, and a thread of gloo that outlives Python can abort the process
'''


class StartEngine(HFEngine):
    "Always samples from the start policy: the same rows for two runs that round differently."
    exact = False

    def __init__(self, model, tokenizer, **kw): super().__init__(load_policy(BASE.model)[0], tokenizer, **kw)
    def sync(self, model): pass


COPY, START = 'test_engines:CopyingEngine', 'test_launch:StartEngine'
LORA = dict(lora_rank=2, gradient_checkpointing=True, share=False)
PIECES = {'whole': dict(engine=COPY, steps=2), 'lora': dict(LORA, engine=COPY, steps=2),
          'lora bfloat16': dict(LORA, engine=START, steps=2, dtype='bfloat16'),
          'mixed': dict(engine=START, steps=2, mixed_precision='bf16', gradient_checkpointing=True, share=False)}


@pytest.fixture(scope='module')
def in_pieces(tmp_path_factory):
    "launcher -> folder of runs with weights in pieces; the longer ones stopped after a step and resumed."
    @lru_cache
    def run(launcher):
        folder = tmp_path_factory.mktemp(launcher)
        launch_runs(launcher, folder, SHARDED, PIECES if launcher == 'fsdp2' else dict(whole=PIECES['whole']), twice=True)
        return folder
    return run


def saved(folder): return load_policy(folder)[0].state_dict()


@pytest.mark.slow
@pytest.mark.parametrize('launcher, name', [('fsdp2', 'whole'), ('fsdp2', 'lora'), ('zero3', 'whole')])
def test_weights_in_pieces_are_one_process_and_resume(tmp_path, in_pieces, launcher, name):
    "Sharded policy and reference; stopped after a step and resumed; the save is a transformers folder."
    if launcher == 'zero3': pytest.importorskip('deepspeed')
    out = in_pieces(launcher)/name
    assert len(checkpoints(out)) == 2
    same_run(alone(tmp_path, **PIECES[name]), out, eps=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['whole', 'lora'])
def test_an_engine_is_handed_whole_weights(in_pieces, name):
    "On both processes, under the names of the plain model, adapters added: after the last update, what is saved."
    out = in_pieces('fsdp2')/name
    sent, final = [torch.load(out/f'sent{i}.pt') for i in (0, 1)], saved(out/'policy')
    for weights in sent:
        assert set(weights) == set(final) and all(type(w) is torch.Tensor for w in weights.values())
        assert max((w - final[k]).abs().max() for k, w in weights.items()) < 1e-6


@pytest.mark.slow
def test_adapters_in_pieces_are_saved_for_peft(in_pieces):
    peft = pytest.importorskip('peft')
    out = in_pieces('fsdp2')/'lora'
    model = peft.PeftModel.from_pretrained(load_policy(BASE.model)[0], checkpoints(out)[-1]/'policy').merge_and_unload()
    start, final = saved(BASE.model), saved(out/'policy')
    assert max((w - final[k]).abs().max() for k, w in model.state_dict().items()) < 1e-6
    assert max((w - start[k]).abs().max() for k, w in final.items()) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize('name', ['lora bfloat16', 'mixed'])
def test_bfloat16_in_pieces_is_one_process_up_to_rounding(tmp_path, in_pieces, name):
    "From the same rows: nearly the same loss, and an update in the same direction."
    one, two = alone(tmp_path, **PIECES[name]), in_pieces('fsdp2')/name
    assert len(checkpoints(two)) == 2
    for ours, theirs in zip(read_log(one/'history.jsonl'), read_log(two/'history.jsonl'), strict=True):
        if ours['step'] == 1: assert abs(ours['kl']) < 1e-6 and abs(theirs['kl']) < 1e-6     # a reference in the same precision
        for key, eps in dict(loss=2e-3, kl=2e-3, entropy=1e-3, grad_norm=.03, old_diff=1e-3).items():
            assert ours[key] == pytest.approx(theirs[key], abs=eps), key
    start = torch.cat([p.flatten() for p in load_policy(BASE.model, dtype=PIECES[name].get('dtype', 'float32'))[0].parameters()])
    moved = [weights(f).float() - start.detach().float() for f in (one, two)]
    assert moved[0].abs().max() > 5e-5 and torch.cosine_similarity(*moved, dim=0) > .98
