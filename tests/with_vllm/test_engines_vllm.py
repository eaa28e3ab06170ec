"vLLM's engines meet the contract of engines.py and train the toy. Runs in an environment of its own: make test-vllm."
import math, time

import pytest
import torch

pytest.importorskip('vllm', reason='needs vLLM: make test-vllm')

from engines import CHECKS, CLOSE, contract, gap, questions, stir, tiny, wide
from hir.training.config import make_config
from hir.policies.engines.vllm import VLLMEngine, VLLMServerEngine
from hir.instructions.instruction import load_instructions
from hir.policies.rollout import EngineError
from hir.policies.engines.hf import HFEngine
from hir.files import shipped
from hir.training.trainer import fit

ENGINES = {'in-process': VLLMEngine, 'server': VLLMServerEngine,
           'in-process-adapter': lambda *args, **kw: VLLMEngine(*args, lora='adapter', **kw),
           'server-adapter': lambda *args, **kw: VLLMServerEngine(*args, lora='adapter', **kw)}
PAIRS = [('in-process', 'wide'), ('in-process', 'tied'), ('in-process', 'tied_lora'),
         ('in-process-adapter', 'lora'), ('server', 'wide'), ('server-adapter', 'tied_lora')]


@pytest.fixture(scope='module', params=PAIRS, ids='-'.join)
def made(request):
    engine, model, tokenizer = contract(request.param[1], ENGINES[request.param[0]])
    yield engine, model, tokenizer
    engine.close()


@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
def test_contract(made, check): check(*made)


def test_the_trainers_process_stays_as_it_was():
    "vLLM seeds random numbers and takes torch.set_num_threads away when it starts; an engine gives both back."
    model, tokenizer = tiny(True)
    state, threads, setter = torch.get_rng_state(), torch.get_num_threads(), torch.set_num_threads
    engine = VLLMEngine(model, tokenizer, max_new_tokens=4)
    engine.generate(questions(), 1, 0); engine.close()
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
    assert torch.set_num_threads is setter and not torch.distributed.is_initialized()
    with pytest.raises(EngineError, match='closed'): engine.generate(questions(), 1, 0)


def test_weights_that_do_not_arrive_are_noticed(monkeypatch):
    "Sent by the names of `named_parameters`, tied embeddings reach vLLM's input and not its output."
    model, tokenizer = tiny(True)
    engine = VLLMEngine(model, tokenizer, max_new_tokens=4)
    try:
        for method, keep in (('named_parameters', True), ('state_dict', False)):
            stir(model, .2)
            with monkeypatch.context() as m:
                m.setattr('hir.policies.engines.replica._weights_of', lambda model, *rest: [
                    (k, p.detach()) for k, p in model.named_parameters() if keep or 'layers.1.mlp' not in k])
                with pytest.raises(EngineError, match='not all weights have arrived'): engine.sync(model)
            with pytest.raises(EngineError, match='sync'): engine.generate(questions(), 1, 0)
        engine.sync(model)
        assert gap(model, engine.generate(questions(), 2, 0)) <= CLOSE
    finally: engine.close()


def test_in_16_bits_it_agrees_as_far_as_16_bits_do(record_property):
    model, tokenizer = tiny(True)
    engine = VLLMEngine(model.bfloat16(), tokenizer, max_new_tokens=16)
    try: found = gap(model, engine.generate(questions(), 8, 0))
    finally: engine.close()
    record_property('bfloat16', found); print(f'bfloat16: {found:.3f} nats')
    assert CLOSE < found < engine.tolerance


def test_a_server_that_dies_says_why():
    engine = VLLMServerEngine(*tiny(True), max_new_tokens=4)
    try:
        engine.llm.process.kill()
        with pytest.raises(EngineError, match=r'the vLLM server has ended \(exit code -9\)'): engine.generate(questions(), 1, 0)
    finally: engine.close()
    assert not engine.home.exists()

def test_a_server_that_cannot_start_says_why(tmp_path):
    with pytest.raises(EngineError, match='max_num_seqs'): VLLMServerEngine(*tiny(True), max_num_seqs=-1)


@pytest.mark.parametrize('make', [VLLMEngine, VLLMServerEngine])
def test_an_option_that_vllm_does_not_know_is_named(make):
    with pytest.raises(EngineError, match="vLLM has no option 'tensor_paralel_size'"): make(*tiny(True), tensor_paralel_size=2)


@pytest.mark.parametrize('engine', ['vllm', 'vllm-server'])
def test_the_toy_is_trained(engine, tmp_path):
    "Three steps by the settings alone: finite losses, and old log-probabilities next to the trainer's."
    model, tokenizer = wide()
    cfg = make_config(dict(engine=engine, steps=3, batch=4, m=4, method=dict(k=1, kl_coef=0), lr=1e-3, max_new_tokens=24, micro=16,
                           out=str(tmp_path/'run'), cpu=True, eval_every=2))
    log = []
    train = load_instructions(shipped('toy/train.jsonl'))[:8]
    ask = lambda engine: {'ila': sum(len(r.ids) for r in engine.generate(train[:2], 2, 0, temperature=0.))}
    done = fit(cfg, model, tokenizer, train, evaluate=ask, progress=False, on_step=lambda metrics, rows: log.append((metrics, rows)))
    assert done['step'] == 3 and len(log) == 3
    for metrics, rows in log:
        assert math.isfinite(metrics['loss']) and metrics['old_diff'] <= CLOSE and metrics['skipped'] == 0
        assert all(math.isfinite(x) for row in rows for x in (*row.rollout.logps, *row.rollout.entropies))


def test_tokens_a_second(record_property):
    "Not a race on two cores and a toy: a figure for the record."
    model, tokenizer = wide()
    qs = load_instructions(shipped('toy/heldout.jsonl'))[:32]
    found = {}
    for make in (HFEngine, VLLMEngine):
        engine = make(model, tokenizer, max_new_tokens=32)
        engine.generate(qs[:2], 1, 0)
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = sum(len(r.ids) for r in engine.generate(qs, 4, 0))
        found[make.__name__] = tokens, tokens/(time.perf_counter() - wall), tokens/(time.process_time() - cpu)
        engine.close()
    for name, (n, wall, cpu) in found.items(): print(f'{name}: {n} tokens, {wall:.0f} a second, {cpu:.0f} a CPU-second')
    assert all(n > 100 for n, *_ in found.values())
