"The reward function and the rows of hir.adapters.verl, given to verl's own loaders and reward managers."
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip('verl', reason='needs verl: tests/adapters/verl.txt says how to install it')
pytest.importorskip('ray', reason='needs ray, which verl imports')

from omegaconf import OmegaConf
from verl import DataProto
from verl.experimental.reward_loop import RewardLoopManager, RewardLoopWorker
from verl.trainer.ppo.metric_utils import process_validation_metrics
from verl.trainer.ppo.ray_trainer import RayPPOTrainer
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
from verl.workers.reward_manager import get_reward_manager_cls

from checkout import ROOT
from hir.adapters.logs import read_rollouts
from hir.adapters.verl import save_verl, verl_row
from hir.constraints.verifier import cla, ila
from hir.files import DataError, records, shipped
from hir.instructions.instruction import load_instructions
from hir.policies.engines.hf import HFEngine
from hir.policies.policy import load_policy
from hir.replays.reward import score

TOY = load_instructions(shipped('toy/train.jsonl'))[:6]
HOWTO = ROOT/'nbs'/'howto'/'use_verl.ipynb'


def settings(**given):
    "What verl's reward loop reads of its configuration, and the toy's tokenizer."
    reward = dict(custom_reward_function=dict(path='pkg://hir.adapters.verl', name='compute_score', reward_kwargs=given),
                  reward_manager=dict(source='register', name='naive'), reward_model=dict(enable=False), num_workers=2)
    model = dict(path=str(shipped('toy/start')), tokenizer_path=None)
    return OmegaConf.create(dict(reward=reward, actor_rollout_ref=dict(model=model)))


@pytest.fixture(scope='module')
def played(tmp_path_factory):
    "Rows that verl's data set read, answered by the toy: (rollouts as we score them, the batch as verl holds it)."
    path = tmp_path_factory.mktemp('verl')/'train.parquet'
    save_verl(path, TOY)
    model, tokenizer = load_policy(shipped('toy/start'))
    data = RLHFDataset(str(path), tokenizer, OmegaConf.create(dict(max_prompt_length=256, filter_overlong_prompts_workers=None)))
    assert len(data) == len(TOY) and [list(r['raw_prompt']) for r in data] == [q.messages for q in TOY]
    engine = HFEngine(model, tokenizer, max_new_tokens=24)
    rollouts = score(engine.generate(TOY, 4, list(range(len(TOY)))))
    rows = collate_fn([data[r.group] for r in rollouts])
    batch = DataProto.from_single_dict({k: v for k, v in rows.items() if k != 'dummy_tensor'} | tokens(rollouts, tokenizer))
    return rollouts, batch, tokenizer


def tokens(rollouts, tokenizer):
    "Prompts padded at the left, responses at the right, as verl holds them."
    P, T = (max(len(getattr(r, name)) for r in rollouts) for name in ('prompt_ids', 'ids'))
    pad = tokenizer.pad_token_id
    prompts = torch.tensor([[pad]*(P - len(r.prompt_ids)) + [*r.prompt_ids] for r in rollouts])
    responses = torch.tensor([[*r.ids] + [pad]*(T - len(r.ids)) for r in rollouts])
    mask = torch.tensor([[0]*(P - len(r.prompt_ids)) + [1]*(len(r.prompt_ids) + len(r.ids)) + [0]*(T - len(r.ids))
                         for r in rollouts])
    return dict(prompts=prompts, responses=responses, attention_mask=mask)


def at_last_token(rollouts, values, like):
    "(B,T) with each value on the last token of its response."
    out = torch.zeros_like(like, dtype=torch.float32)
    for i, (r, x) in enumerate(zip(rollouts, values)): out[i, len(r.ids) - 1] = x
    return out


# ---- decode, score, tensor

@pytest.mark.parametrize('given, credit', [({}, cla), ({'credit': 'all'}, ila)])
def test_the_reward_manager_gives_what_we_verify(played, given, credit):
    rollouts, batch, tokenizer = played
    manager = get_reward_manager_cls('naive')(tokenizer, 0, get_custom_reward_fn(settings(**given)))
    found = manager(batch, return_dict=True)
    want = [credit(r.verdict) for r in rollouts]
    assert torch.equal(found['reward_tensor'], at_last_token(rollouts, want, batch.batch['responses']))
    assert len(set(want)) > (credit is cla), 'the toy should not always earn the same'
    extra = found['reward_extra_info']
    assert extra['acc'] == [ila(r.verdict) for r in rollouts] and extra['cla'] == [cla(r.verdict) for r in rollouts]
    kinds = sorted({c.kind for q in TOY for c in q.constraints})
    assert list(extra) == ['score', 'acc', 'cla', *(f'kind/{k}' for k in kinds)]
    for i, r in enumerate(rollouts):
        asked = {c.kind: float(ok) for c, ok in zip(r.instruction.constraints, r.verdict)}
        assert {k: extra[f'kind/{k}'][i] for k in kinds} == {k: asked.get(k) for k in kinds}


def test_the_reward_loop_gives_the_same(played):
    "The worker of 0.9.1's reward loop, which scores in threads; its manager puts the scores into the tensor."
    rollouts, batch, _ = played
    worker = RewardLoopWorker(settings())
    found = worker.loop.run_until_complete(worker.compute_score_batch(batch))
    want = [cla(r.verdict) for r in rollouts]
    assert [f['reward_score'] for f in found] == want
    tensor = worker.reward_manager.assemble_rm_scores(batch, want)
    assert torch.equal(tensor, at_last_token(rollouts, want, batch.batch['responses']))


@pytest.mark.slow
def test_the_reward_loop_of_ray_gives_the_same(played):
    "verl's manager with two Ray workers on this machine, as a training calls it."
    import os, ray
    rollouts, batch, _ = played
    where = {'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={'env_vars': where})
    try: found = RewardLoopManager(settings()).compute_rm_score(batch)
    finally: ray.shutdown()
    want = [cla(r.verdict) for r in rollouts]
    assert torch.equal(found.batch['rm_scores'], at_last_token(rollouts, want, batch.batch['responses']))
    assert found.non_tensor_batch['acc'].tolist() == [ila(r.verdict) for r in rollouts]
    assert 'kind/toy:quotes' in found.meta_info['reward_extra_keys']


def test_validation_metrics_have_a_column_for_each_kind(played):
    rollouts, batch, tokenizer = played
    extra = get_reward_manager_cls('naive')(tokenizer, 0, get_custom_reward_fn(settings()))(batch, True)['reward_extra_info']
    kind = rollouts[0].instruction.constraints[0].kind
    found = process_validation_metrics(['hir']*len(rollouts), [str(r.group) for r in rollouts], dict(extra))['hir']
    by = {}
    for r in rollouts:
        for c, ok in zip(r.instruction.constraints, r.verdict):
            if c.kind == kind: by.setdefault(r.group, []).append(ok)
    means = [sum(oks)/len(oks) for oks in by.values()]                   # verl: of the responses to a prompt, then of the prompts
    assert found[f'kind/{kind}']['mean@4'] == pytest.approx(sum(means)/len(means))
    assert found['acc']['mean@4'] == pytest.approx(np.mean([ila(r.verdict) for r in rollouts]))


def test_a_broken_row_stops_verl_and_is_named(played):
    rollouts, batch, tokenizer = played
    rows = [verl_row(q, i) for i, q in enumerate(TOY)]
    bad = batch[:1]
    broken = rows[0]['reward_model']['ground_truth'].replace('toy:', 'tay:')
    bad.non_tensor_batch['reward_model'] = np.array([{'ground_truth': broken}], dtype=object)
    with pytest.raises(DataError, match='hir, row 0: .*tay:'):
        get_reward_manager_cls('naive')(tokenizer, 0, get_custom_reward_fn(settings()))(bad)
    worker = RewardLoopWorker(settings())
    with pytest.raises(DataError, match='hir, row 0: .*tay:'):
        worker.loop.run_until_complete(worker.compute_score_batch(bad))


@pytest.fixture
def loop(monkeypatch):
    "verl's manager of the reward loop, its worker called in this process instead of in one of Ray's."
    def made(cfg):
        monkeypatch.setattr('verl.experimental.reward_loop.reward_loop.ray.get', lambda results: results)
        worker = RewardLoopWorker(cfg)
        run = lambda chunk: worker.loop.run_until_complete(worker.compute_score_batch(chunk))
        handle = SimpleNamespace(compute_score_batch=SimpleNamespace(remote=run))
        manager = RewardLoopManager.__new__(RewardLoopManager)
        vars(manager).update(config=cfg, reward_model_manager=None, reward_loop_workers=[handle],
                             reward_manager_cls=type(worker.reward_manager))
        return manager
    return made


def test_the_loop_puts_scores_into_the_tensor_and_columns_beside_it(played, loop):
    rollouts, batch, _ = played
    found = loop(settings()).compute_rm_score(batch)
    want = [cla(r.verdict) for r in rollouts]
    assert torch.equal(found.batch['rm_scores'], at_last_token(rollouts, want, batch.batch['responses']))
    assert found.non_tensor_batch['acc'].tolist() == [ila(r.verdict) for r in rollouts]


def test_the_loop_cannot_take_rows_of_different_columns(played, loop):
    "Why each row names the columns of all: verl looks up those of the first row in the others."
    _, batch, _ = played
    mixed = batch[[0, 4]]
    for i, kinds in enumerate((['toy:quotes'], ['toy:title'])):
        mixed.non_tensor_batch['extra_info'][i] = {'index': i, 'kinds': kinds}
    with pytest.raises(KeyError, match='kind/toy:quotes'): loop(settings()).compute_rm_score(mixed)
    assert 'kind/toy:mark' in loop(settings(kinds=['toy:mark'])).compute_rm_score(mixed).non_tensor_batch


# ---- what a run of verl leaves behind

def dumped(played, loop, folder, step):
    "The table that verl's trainer writes of a step, with the columns of its reward."
    _, batch, tokenizer = played
    found = loop(settings()).compute_rm_score(batch)
    whole = DataProto.from_dict(dict(batch.batch) | {'token_level_scores': found.batch['rm_scores']},
                                non_tensors=batch.non_tensor_batch)
    trainer = RayPPOTrainer.__new__(RayPPOTrainer)                       # its constructor wants GPUs
    trainer.tokenizer, trainer.global_steps = tokenizer, step
    trainer._init_dump_executor()
    columns = {k: found.non_tensor_batch[k] for k in found.meta_info['reward_extra_keys']}
    trainer._log_rollout_data(whole, columns, {}, str(folder))
    trainer._shutdown_dump_executor()


def test_its_rollout_table_is_read_back(played, loop, tmp_path):
    rollouts = played[0]
    for step in (1, 2): dumped(played, loop, tmp_path, step)
    _, first = next(records(tmp_path/'1.jsonl'))
    assert {'input', 'output', 'gts', 'score', 'step', 'acc', 'cla', 'kind/toy:quotes'} <= set(first)
    for given in ([], TOY):
        steps = dict(read_rollouts(tmp_path, given))
        assert list(steps) == [1, 2] and [row.rollout.response for row in steps[2]] == [r.response for r in rollouts]
        assert [row.rollout.verdict for row in steps[1]] == [r.verdict for r in rollouts]
        assert [row.reward for row in steps[1]] == pytest.approx([cla(r.verdict) for r in rollouts])
        assert [row.group for row in steps[1]] == [r.group for r in rollouts]
    assert [row.rollout.instruction for row in steps[1]] == [r.instruction for r in rollouts]


def test_the_table_of_the_v1_trainer_is_read_back(played, tmp_path, monkeypatch):
    "The trainer that verl 0.9.1 takes unless told otherwise; its table has no columns of the reward."
    pytest.importorskip('transfer_queue', reason='needs TransferQueue, which verl.trainer.ppo.v1 imports')
    from tensordict import NonTensorStack, TensorDict
    from verl.trainer.ppo.v1 import trainer_base
    rollouts, batch, tokenizer = played
    nested = lambda name: torch.nested.nested_tensor([torch.tensor(getattr(r, name)) for r in rollouts], layout=torch.jagged)
    scores = torch.tensor([[cla(r.verdict)] for r in rollouts])
    held = TensorDict(dict(prompts=nested('prompt_ids'), responses=nested('ids'), rm_scores=scores,
                           uid=NonTensorStack(*[str(r.group) for r in rollouts]),
                           reward_model=NonTensorStack(*batch.non_tensor_batch['reward_model'])), batch_size=len(rollouts))
    monkeypatch.setattr(trainer_base.tq, 'kv_batch_get', lambda **asked: held)         # instead of the queue's actors
    kind = type('Trainer', (trainer_base.PPOTrainer,), dict.fromkeys(trainer_base.PPOTrainer.__abstractmethods__))
    trainer = kind.__new__(kind)
    trainer.tokenizer, trainer.global_steps = tokenizer, 3
    trainer._init_dump_executor()
    keys = [f'{r.group}_{i}_0' for i, r in enumerate(rollouts)]
    trainer._log_rollout_data(SimpleNamespace(keys=keys, partition_id='train'), {}, str(tmp_path))
    trainer._shutdown_dump_executor()
    assert list(next(records(tmp_path/'3.jsonl'))[1]) == ['input', 'output', 'gts', 'score', 'step', 'uid']
    steps = dict(read_rollouts(tmp_path, TOY))
    assert [(row.rollout.instruction, row.rollout.verdict) for row in steps[3]] == [(r.instruction, r.verdict) for r in rollouts]


# ---- the how-to

def blocks(language):
    "The code blocks of the how-to."
    cells = json.loads(HOWTO.read_text(encoding='utf-8'))['cells']
    text = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
    return re.findall(rf'^```{language}\n(.*?)^```', text, re.M | re.S)


def test_the_settings_of_the_howto_are_verls(played):
    "verl's own configuration takes them, and finds the reward function by them."
    from hydra import compose, initialize_config_module
    command = next(b for b in blocks('sh') if 'main_ppo' in b).replace('\\\n', ' ').split()
    with initialize_config_module('verl.trainer.config', version_base=None):
        cfg = compose('ppo_trainer', overrides=command[3:])
    r = played[0][1]
    found = get_custom_reward_fn(cfg)('hir', r.response, verl_row(r.instruction, 0)['reward_model']['ground_truth'])
    assert found['score'] == cla(r.verdict) != ila(r.verdict)
    assert cfg.trainer.rollout_data_dir == 'rollouts' and cfg.reward.reward_manager.name == 'naive'


def test_the_metrics_of_the_howto_are_verls(played, loop):
    found = validated(played, loop)
    said = dict(line.rsplit(None, 1) for line in blocks('text')[0].splitlines())
    assert len(said) > 3 and {k: f'{found[k]:.4f}' for k in said} == said


def validated(played, loop):
    "What verl reports of a validation, by name."
    rollouts, batch, _ = played
    found = loop(settings()).compute_rm_score(batch)
    columns = {k: found.non_tensor_batch[k].tolist() for k in found.meta_info['reward_extra_keys']}
    columns['reward'] = found.batch['rm_scores'].sum(-1).tolist()
    trainer = RayPPOTrainer.__new__(RayPPOTrainer)
    return trainer._val_metrics_update(['hir']*len(rollouts), [str(r.group) for r in rollouts], columns, [])
