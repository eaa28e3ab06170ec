"""Our sentences, tokens and languages are those of NLTK and langdetect, on random and on recorded texts.

`hir.constraints.text` cuts sentences with Punkt, tokens with the Treebank rules and guesses languages as langdetect does, in code
of its own. Here each is compared with the library that it follows. With HIR_PARITY=<folder>, also on real responses.
"""
from collections import Counter
from functools import cache

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from hir.constraints import text as ours
from test_parity import FOLDER, FILES, records

nltk = pytest.importorskip('nltk', reason='nltk is what sentences and tokens are compared with')
QUICK = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

marks = ['.', '?', '!', '...', '. ', '.\n', '\n', ' ', '  ', '"', "'", "''", '``', ')', '(', '”', '“', '»', '’', '--', '-', ',', ':', ';',
         '[', ']', '<', '>', '*', '@', '#', '\xa0', '\u2028', '..', '.)', '."', '?!', '\t', "' ", '\0', '. . .']
words = ['Mr.', 'U.S.', 'e.g.', 'A.', 'B', 'b', '5.', '3.5', '12', 'The', 'the', 'Harris', 'International', 'trade', 'ing', 'Nation', 'I.', 'They',
         'J. Smith', 'Provide', 'Byte', "I'm", 'p.m.', 'Ph.D.', 'co-op.', 'x-Mr.', 'é', '海', "can't", "I'll", "DON'T", "'tis", 'cannot', 'gimme', 'wanna ', "d'ye", "more'n"]
texts = st.one_of(st.lists(st.sampled_from(marks + words), max_size=14).map(''.join),
                  st.lists(st.sampled_from(marks + words), max_size=9).map(' '.join), st.text(max_size=40))
# NLTK's newest `regex` takes the separators \x1c-\x1f for no blanks, as `re` and older versions do, and marks for letters
plain = texts.filter(lambda s: not any('\x1c' <= c <= '\x1f' for c in s) and s.isascii() | all(c.isalnum() or not c.isidentifier() for c in s))


@cache
def punkt():
    "NLTK's Punkt with our model."
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
    common = ours._common_words()
    small = {w for w in common - ours._EITHER if w in ours._SMALL or w.endswith(ours._SUFFIXES)}
    cases = dict.fromkeys(ours._STARTERS, 4) | dict.fromkeys(common, 36) | dict.fromkeys(small, 32)
    model = PunktParameters()
    model.abbrev_types, model.sent_starters = ours._ABBREVIATIONS, ours._STARTERS
    model.ortho_context = Counter(cases)
    model.collocations = {('##number##', word) for word in ours._HEADED}
    return PunktSentenceTokenizer(model)


@cache
def treebank(): return nltk.tokenize.NLTKWordTokenizer()


@cache
def detectors():
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.set_seed(0)
    return factory


def detected(text):
    from langdetect.lang_detect_exception import LangDetectException
    detector = detectors().create()
    detector.append(text)
    try: return detector.detect()
    except LangDetectException: return None


@QUICK
@given(plain)
@example('!! ?! "x')
@example(' !! a')
def test_sentences_are_punkts(text):
    assert ours.sentences(text) == punkt().tokenize(text)


scripts = ['海。', '「行く？」と', 'हिन्दी।', 'เด็ก ', '؟', 'Å. ', 'А. С. ', '- ', '1. ', 'a) ', '# ', '**', '```', '😊', '👩\u200d👧', 'x.com', '1,000', "don't", 'R&D', 'https://x.y']


@QUICK
@given(st.lists(st.sampled_from(marks + words + scripts), max_size=14).map(''.join) | texts)
@example('1. 😊 ,_')
@example('\0\u2028؟Å.😊')
def test_a_readers_sentences_have_words(text):
    "Each sentence has a word; there is one where there is a word; blanks around a text change nothing."
    found = ours.meant_sentences(text)
    assert all(s.strip() == s and any(map(str.isalnum, s)) for s in found)
    assert bool(found) == bool(ours.words(text)) == any(map(str.isalnum, text))
    assert found == ours.meant_sentences(text + '\n')


@QUICK
@given(st.text(st.sampled_from("ab1é海かि์\u0301\u200d\ufe0f._-'’&:/ "), max_size=12))
def test_marks_tear_no_word(text):
    "Words are found in reading order, none begins with a mark, and where letters meet there is no cut but in Chinese and Japanese."
    found, at = ours.words(text), 0
    for word in found:
        start = text.index(word, at)
        assert word[0].isalnum() and (start == 0 or not text[start - 1].isalnum() or '海' in text[start - 1:start + 1] or 'か' in text[start - 1:start + 1])
        at = start + len(word)


@QUICK
@given(st.lists(plain.filter(lambda s: '\0' not in s), max_size=3))
def test_tokens_are_the_treebanks(texts):
    assert ours.tokenize(texts) == [treebank().tokenize(s) for s in texts]


@settings(QUICK, max_examples=60)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(['The sea ', 'Das Meer ', 'la mer salée ', 'МОРЕ ', 'море ', '海は青い', '한국어 ', 'Ấn Độ ', 'ABC ',
       'dÉF ', 'a@b.cd ', 'http://x.y/z ', '12 ', 'ș', 'ی', '\xa0', 'ñandú']), max_size=8).map(''.join)))
@example('海'*3 + ' ab')
def test_languages_are_langdetects(text):
    assert ours.language(text) == detected(text)


def test_every_letter_stays_what_it_is_normalised_to():
    "The memory of words is keyed by normalised letters; normalising again must change nothing."
    once = ''.join(map(chr, range(0x20, 0xd800))).translate(ours._LETTERS)
    assert once == once.translate(ours._LETTERS)


@pytest.mark.skipif(not FOLDER, reason='the environment variable HIR_PARITY names no folder of recorded responses')
def test_recorded_responses():
    texts = sorted({r['response'] for name in FILES for r in records(name)})
    assert [t for t in texts if ours.sentences(t) != punkt().tokenize(t)] == []
    cut = [ours.sentences(t) for t in texts[::5]]
    assert [ours.tokenize(c) for c in cut] == [[treebank().tokenize(s) for s in c] for c in cut]
    assert [t for t in texts[::10] if ours.language(t) != detected(t)] == []
