"""What a reader accepts of IFTrain's kinds: pairs of responses, made by hand, and any text."""
import random

import pytest

import hir.constraints.suites.iftrain as iftrain
from hir.constraints.constraint import KINDS, Constraint, ConstraintError
from hir.constraints.verifier import check, departures

IFTRAIN = sorted(k for k, v in KINDS.items() if v.check.__module__ == iftrain.__name__)

# kind, arguments, responses that meet it, responses that do not
PAIRS = [
    ('keywords:word_once', {'keyword': 'art'}, ['Fine ART.', 'Art and artist', '**art**', '_art_'], ['art, art', 'artist', 'Art and *art*']),
    ('keywords:word_once', {'keyword': 'C++'}, ['I write C++.', '(C++)'], ['I write C.', 'C++, c++']),
    ('keywords:word_once', {'keyword': '猫'}, ['我有一只猫在家'], ['我有一只狗', '猫和猫']),
    ('keywords:word_count_different_numbers', {'keyword': '$100', 'frequency': 2, 'relation': 'at least'},
     ['It is $100, not $100.'], ['It is $100.', 'It is 100, 100']),
    ('keywords:word_count_different_numbers', {'keyword': 'the', 'frequency': 2, 'relation': 'less than'},
     ['the other, then bathe', 'none'], ['The sea, the salt']),
    ('count:count_increment_word', {'keyword1': 'sea', 'keyword2': 'salt'}, ['Salt sea, salt. Season.', '“Salt”, sea, *salt*'],
     ['Salt sea.', 'Salt sea, sea, salt', 'Salt sea, salty']),
    ('keywords:exclude_word_harder', {'keyword': 'and'}, ['The sand.', 'Andes', 'x'], ['And so', 'sea, and.', 'salt and sand', '**and**', 'this\nand\nthat']),
    ('keywords:palindrome', {}, ['At noon.', 'Noon', '“Madam, I’m Adam”', 'A man, a plan, a canal: Panama', 'Say: "Never odd or even."', 'In 2002'],
     ['I am', 'A sea', '- x -', 'www', 'As a gift', 'At a bar', '...']),
    ('keywords:no_adjacent_consecutive', {}, ['An apple', '1 2 3', 'Cat then bee', 'b a'], ['A "big" sea', 'a – bee', '*Apple* **boat**', '...']),
    ('first_word:first_word_answer', {'first_word': 'the'}, ['The, x', '**The** sea', '"The" sea', '# The sea', '1. The sea', '\n\nthe', '- The', '> The', '“The sea”'],
     ['Theme', 'A the', 'the-sea', "The's", '']),
    ('first_word:first_word_answer', {'first_word': 'Dear sir'}, ['Dear sir, hello', 'dear  Sir!'], ['Dear madam', 'Dear']),
    ('first_word:first_word_answer', {'first_word': '.NET'}, ['.NET is', '**.NET**'], ['The .NET']),
    ('first_word:first_word_answer', {'first_word': 'मुझे'}, ['मुझे हिन्दी'], ['हिन्दी मुझे']),
    ('last_word:last_word_answer', {'last_word': "don't"}, ["I don't.", 'I don’t!', "**I don't**", 'I “don’t”.'], ["don't so", 'dont', "I don"]),
    ('last_word:last_word_answer', {'last_word': 'it'}, ['Do it !', 'Do it…', 'Do *it*.', 'do it\n\n', 'Do _it_', 'it'], ["It's", 'unit', 'it is']),
    ('first_word:first_word_sent', {'first_word': ['the']}, ['The sea. "The salt."', 'The sea? the salt', '**The** sea.', 'The sea, no. 5, is'],
     ['The sea. Salt.', 'A sea', '...', '!']),
    ('last_word:last_word_sent', {'last_word': "don't"}, ["I don't.", "I don't. We don't!", 'I don’t?!'], ["I don't. I do.", "…"]),
    ('keywords:keyword_specific_position', {'keyword': 'salt', 'n': 2, 'm': 3}, ['Ah. Well, the salt', 'Why? The “big” salt!', 'Ah. The sea Salt.'],
     ['Ah. Salt', 'The sea salt', 'Ah. Well, salt']),
    ('keywords:keyword_specific_position', {'keyword': "don't", 'n': 1, 'm': 2}, ["I don't.", 'I *don’t* know'], ["Don't I", 'I do']),
    ('keywords:start_end', {}, ['Sea is sea', "Don't say don't", '**Sea** is a *sea*', '"Sea" is sea', 'Sea! Sea'],
     ['Sea is sea.', 'Sea', '! so !', 'Sea is a sea 🌊', 'Sea is "sea"', 'Seas is sea']),
    ('copy:copy', {'prompt_to_repeat': 'Why  salt?\nNow.'}, ['Why salt? Now.', '"Why salt? Now."', '> Why salt?\n> Now.', '**Why salt? Now.**'],
     ['Why salt?', 'Here: Why salt? Now.', 'Why salt? Now. Because.']),
    ('copy:copying_simple', {'prompt_to_repeat': "It's salt."}, ['It’s salt.', '```\nIt\'s salt.\n```'], ["It's salt. Yes", 'Its salt.']),
    ('copy:copying_multiple', {'prompt_to_repeat': 'Why?', 'N': 2}, ['Why?\n******\nWhy?', 'Why?******Why?******', '******\nWhy?\n* * * * * *\n"Why?"'],
     ['Why?', 'Why?***Why?', 'Why?******', 'Why?******How?', 'Why?******Why?******Why?', '******']),
    ('new:copy_span_idx', {'prompt_to_repeat': 'Why salt?', 'n_start': 4, 'n_end': 8}, ['salt', 'salt?', '"salt"', '`salt`', ' Salt '], ['Why salt?', 'sal', 'alt']),
    ('copy:repeat_phrase', {'phrase': 'The sea is salt', 'small_n': 2},
     ['The lake is salt. The sea was salt!', '1. the lake is salt\n2. **The sea was salt**', 'The lake is\nsalt, the sea was salt'],
     ['The sea is salt. The lake is salt', 'The lake is salt', 'The lake was salt. The sea was salt', 'The lake is salty. The sea was salty']),
    ('copy:repeat_phrase', {'phrase': 'C++ and .NET', 'small_n': 1}, ['C++ or .NET', 'c++ or **.NET**.'], ['C++ and .NET', 'C or NET']),
    ('copy:repeat_phrase', {'phrase': '* *', 'small_n': 1}, [], ['* *', '* a *', 'a']),
    ('paragraphs:paragraphs', {}, ['a\n***\nb', 'a\n* * *\nb', '***\na\n***\nb\n***', 'a ***big*** sea\n\n***\n\nb', 'a***b', 'a\n*****\nb'],
     ['a', 'a\n***\nb\n***\nc', 'a ***big*** sea', '***', 'a\n\nb']),
    ('paragraphs:paragraphs2', {}, ['a\n\nb', 'a\n\n\nb', 'a\n \nb', '\n\na\r\n\r\nb\n'], ['a\nb', 'a', 'a\n\nb\n\nc']),
    ('detectable_format:square_brackets', {}, ['[The] [sea].', '[a], [b]', '[The]\n[sea]', '**[The]**'], ['[a b]', '[] []', 'a', '[a] b', '.']),
    ('detectable_format:bigram_wrapping', {}, ['<<I am>> <<at home>>.', '<<a b>>, <<c>>', '<<a b>> c', '<<I’m here>>'],
     ['Sea', '<<a>> <<b>>', '<<a b c>>', 'a b', '<<>>', '<<a b>> c d', '...']),
    ('detectable_format:sentence_hyphens', {}, ['One.-Two.', 'A well-known sea.-Is it?', 'One!-Two', '"One."-"Two."'],
     ['Just one.', 'One. - Two.', 'One. Two.', 'One.-Two. Three.', 'One.-\nTwo.', 'One-two', '-']),
    ('letters:letter_counting', {'N': 3, 'relation': 'at least'}, ['été', '海海海', 'a b c'], ['42 ab', '...']),
    ('count:lowercase_counting', {'N': 1}, ["I don't", 'THE sea', 'Sea-Side well-known'], ['x y', 'été là', 'a “b”']),
    ('count:count_unique', {}, ['Sea. Salt.', 'a, b, c.', "Can cannot can't"], ['The sea, the', 'sea SEA', 'sea, *sea*', '...']),
    ('count:counting_composition', {'n_sent': 2, 'n_words': 2}, ['I am. You are!\n***\nI was. You were.\n***\nSit down. Get up!', 'I am. You are.\n* * *\n'*3, 'I am. You are.***'*3],
     ['I am. You are.\n***\n'*2, 'I am. You.\n***\n'*3, 'I am here. You are.\n***\n'*3, '***\n***']),
    ('punctuation:punctuation_dot', {}, ['Sea!', 'Sea · salt'], ['3.5', 'Sea…', '海。', '海．']),
    ('punctuation:punctuation_exclamation', {}, ['Sea.'], ['Sea!', '海！', '¡Mar', 'What⁉']),
    ('letters:letter_counting2', {'letter': 'S', 'let_frequency': 2, 'let_relation': 'at least'}, ['Sea salt'], ['sea'])]


def test_every_kind_has_a_pair(): assert {kind for kind, *_ in PAIRS} == set(IFTRAIN)


@pytest.mark.parametrize('kind,args,yes,no', PAIRS)
def test_meant(kind, args, yes, no):
    c = Constraint(kind, args)
    assert [t for t in yes if not check(c, t, 'meant')] == [] and [t for t in no if check(c, t, 'meant')] == []


@pytest.mark.parametrize('row', departures('iftrain'), ids=str)
def test_a_departure_parts_the_readings(row): assert row[4] != row[5] != 'refused'


@pytest.mark.parametrize('kind', [k for k in IFTRAIN if KINDS[k].meant])
def test_a_second_check_has_its_departures(kind): assert KINDS[kind].departs


@pytest.mark.parametrize('keyword', ['(x', 'a*a*a*a*a*c', '[name', ':)', '+'])
def test_keywords_that_are_no_patterns_are_texts(keyword):
    for kind, name in (('keywords:word_once', 'keyword'), ('keywords:exclude_word_harder', 'keyword')):
        c = Constraint(kind, {name: keyword})
        assert check(c, f'It is {keyword} here', 'meant') == (kind == 'keywords:word_once')
    c = Constraint('keywords:word_once', {'keyword': keyword})
    if keyword != ':)' and c.refused or keyword == ':)':
        with pytest.raises(ConstraintError, match='keywords:word_once'): check(c, 'a')


PIECES = ['sea', 'Sea', 'salt', 'the', "don't", 'C++', '海', 'é', '\u0301', '1.', '- ', '# ', '> ', '**', '_', '***', '* * *', '******', '[', ']', '<<', '>>',
          '"', '“', '”', '’', "'", '.', '!', '?', '…', '。', ',', '-', '—', '\n', '\n\n', ' ', '\t', '```', '|', '🌊', '\u200d', '\0', 'noon', 'Dr.', '3.5']

@pytest.mark.parametrize('kind', IFTRAIN)
def test_any_text_gets_the_same_bool_twice(kind):
    draw = random.Random(kind)
    constraints = [Constraint(kind, KINDS[kind].example | d.args) for d in KINDS[kind].departs] or [Constraint(kind, KINDS[kind].example)]
    for _ in range(300):
        text = ''.join(draw.choices(PIECES, k=draw.randint(1, 25)))
        c = draw.choice(constraints)
        said = check(c, text, 'meant')
        assert said in (True, False) and check(c, text, 'meant') == said
        if not any(map(str.isalnum, text)) and kind not in ('keywords:exclude_word_harder', 'punctuation:punctuation_dot', 'count:lowercase_counting',
                'punctuation:punctuation_exclamation', 'keywords:word_count_different_numbers', 'letters:letter_counting', 'letters:letter_counting2', 'keywords:word_once'):
            assert not said, text                                   # a text that says nothing meets nothing
