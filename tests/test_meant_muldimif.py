"""What a reader accepts of MulDimIF's sentences: pairs of responses, made by hand, and any text."""
import random

import pytest

import hir.constraints.suites.muldimif as muldimif
from hir.constraints.constraint import KINDS, Constraint
from hir.constraints.verifier import check, departures
from test_muldimif import MULDIMIF, SAID

GRID = '| Name | Use |\n|---|---|\n| Salt | to keep fish. |\n| Sand | none. |'
TWO_ITEMS = '1. **Salt**: It is white. It was grey.\n2. **Sand**: It is grey. It was white.'

# type, sentence, responses that meet it, responses that do not
PAIRS = [
    ('Length/Words', 'at most 4 words', ['a b c d', 'a b c。', '海很大', "I don't - see it", 'a – b – c – d'], ['a b c d e', 'a b c d e。', 'one two three four five 海', '海海海海海', '']),
    ('Length/Words', 'The answer must contain at least 4 words', ['a b c d', 'one two three four。'], ['a b - -', '。。。。', 'a b c']),
    ('Length/Words', 'use capitalized letters for each word and contain at most 3 words', ['A B C'], ['A B\nC D']),
    ('Length/Words', 'Each cell in the table must contain at most 3 words', [GRID], [GRID.replace('none', 'none of all that'), 'no table', '']),
    ('Length/Words', 'each definition must be at most 3 words', ['1. Salt: it is white', '- a b c\n- d', 'a b c\n\nd e f', 'a b c'], ['- a b c d\n- e', 'a b c d\n\ne']),
    ('Length/Words', 'ensure that each heading is no more than 2 words', ['# The sea\nis very very wide'], ['# The wide sea\nis', 'The sea', '']),
    ('Length/Words', "at most 3 words, and it must include the keyword 'Kellogg's'", ["Try Kellogg's", 'Kellogg’s.'], ['Try Kellogg', "Try Kellogg's every morning"]),
    ('Length/Sentences', 'does not exceed a total of 2 sentences', ['It is. It was.', 'At 3.5 m...', 'See Dr. Who.'], ['It is. It was. Go!', '', '很好。很大。很白。']),
    ('Length/Sentences', 'it is presented as a single sentence', ['The sea is 3.5 m deep.', 'What?!'], ['It is. It was.', '']),
    ('Length/Sentences', 'the answer must have at least two sentences', ['It is. It was.', '很好。很大。'], ['It is... so', 'It is!!']),
    ('Length/Sentences', 'each item must have at least 2 sentences', [TWO_ITEMS], [TWO_ITEMS + '\n3. **Sea**: It is wide', '- It is.\n- It was.']),
    ('Length/Paragraphs', 'not exceeding a total of 2 paragraphs', ['a', 'a\n\nb', '# Sea\n\na\n\nb', 'a\n\n---\n\nb'], ['a\n\nb\n\nc', '']),
    ('Length/Paragraphs', 'exactly 2 paragraphs', ['a\n \nb', 'a\r\n\r\nb'], ['# Sea\n\nsalt', 'a\nb']),
    ('Content/Keywords', "Include the keyword 'Mitchell's theory'", ["By Mitchell's theory", 'Mitchell’s **theory**'], ['Mitchell', "Mitchell's idea"]),
    ('Content/Keywords', "Must include the keyword 'Halloween.'", ['On Halloween we', 'halloween!'], ['Hallow']),
    ('Content/Keywords', "Include 'sea' and 'salt', for better or worse", ['Sea, salt'], ['Sea', 'seasalt']),
    ('Content/Keywords', "such as 'sea' or 'salt'", ['Sea', 'Salt'], ['Seas']),
    ('Content/Keywords', "it includes the keyword 'Sea' and avoids the keyword 'sand'", ['The sea', 'Seas, sea, sandy'], ['Sea, Sand', 'Seasand', 'sand']),
    ('Content/Keywords', "The word 'sand' must not be used, nor 'mud'; do not mention 'sand'", ['The sea'], ['Sand', 'the mud']),
    ('Content/Keywords', "Include 'sea' in each sentence", ['The sea is. A sea was.'], ['The sea is. It was.', '']),
    ('Content/Keywords', "make sure that each item includes the keyword 'sea'", ['- sea\n- the sea', '1. Sea\n2. seas, sea'], ['- sea\n- salt']),
    ('Content/Keywords', "Each use must mention 'fish'", ['| Name | Use |\n|---|---|\n| a | fish |\n| b | a fish |'], [GRID]),
    ('Content/Keywords', "mention 'C++' at least twice", ['C++ and **C++**', 'C++, c++'], ['C++', 'CC', 'C, C']),
    ('Content/Keywords', '必须包含「海」', ['大海很大'], ['山']),
    ('Content/Punctuation', 'Finally, make sure the response ends with a period', ['Yes? No.', 'He said "No."', '**No.**', '(No.)', '好。'], ['Yes. No', 'No?', '']),
    ('Content/Punctuation', 'make sure that every sentence concludes with a period', ['It is. It was.', '# Sea\nIt is.', '"It is."'], ['It is? It was.', 'It is! Yes.']),
    ('Content/Punctuation', 'Each question must end with a question mark', ['1. Is it?\n2. Was it?', 'Is it?\n\nWas it?'], ['1. Is it?\n2. It was.']),
    ('Content/Punctuation', 'Each entry in the table must end with a period', [GRID.replace('| Salt |', '| Salt. |').replace('| Sand |', '| Sand. |')], [GRID, 'No table.']),
    ('Content/Punctuation', 'bullet points end with a period', ['- a.\n- b.'], ['- a.\n- b', 'none.']),
    ('Content/Punctuation', 'the essay should avoid using exclamation marks', ['Sea.'], ['Ah! Sea.', '啊！好。']),
    ('Content/Punctuation', 'conclude with a period as the final punctuation mark', ['Sea.'], ['Sea!', 'Sea,']),
    ('Content/Identifiers', "Start with the identifier 'Dear sea:'", ['Dear sea: hi', '**Dear sea:** hi', '# dear Sea:', '"Dear sea: hi"'], ['Oh dear sea:', 'Dear sand:', '']),
    ('Content/Identifiers', "Each example must start with the word 'Example:'", ['Example: a\nExample: b', '1. **Example:** a'], ['No Example: here', 'a']),
    ('Content/Identifiers', 'No bullet points', ['**Sea** - it\n---\n-5 degrees', '1. a'], ['- a', '* a', '• a', '+ a']),
    ('Content/Identifiers', 'as bullet points', ['- a', '• a'], ['**a**', '-5', 'a']),
    ('Content/Identifiers', 'The answer must be in full sentences', ['It is. It was.', '# Sea\nIt is.\n\n- "It was."'], ['Sea', 'It is.\nSea', '']),
    ('Content/Identifiers', 'with in-text citations', ['(Lee et al., 1999)', '[1]', '(Lee & Doe, 2001; Roe, 2003b)'], ['(see below)', 'In 1999', '']),
    ('Content/Identifiers', 'no number points', ['1.5 m', 'a'], ['1. a', 'a\n2) b']),
    ('Format/Table', 'The table must not exceed 2 rows', [GRID, GRID + '\n\nText\n\n' + GRID, 'a | b\n--|--\n1 | 2'], [GRID + '\n| a | b |', 'none', '|', '']),
    ('Format/Table', 'it must not exceed 2 rows', [GRID, '- a\n- b'], ['none', '- a\n- b\n- c']),
    ('Format/Table', 'Any table included must not exceed 1 row', ['none', '| A |\n|---|\n| b |', 'a | b'], [GRID]),
    ('Format/Table', 'a table with exactly two columns: Name and Use', [GRID, GRID.replace('Name', '**Name**')], [GRID.replace('Use', 'Aim'), 'Name, Use', '| Name |\n|---|\n| a |']),
    ('Format/Table', 'The list must contain no more than two names', ['1. a\n2. b', 'a'], ['1. a\n2. b\n3. c']),
    ('Format/Table', 'a table format with precisely three columns', ['|a|b|c|\n|-|-|-|\n|1|2|3|'], [GRID, 'none']),
    ('Format/Markdown', 'include a heading at level 2', ['## Sea', 'a\n## Sea\nb'], ['# Sea', 'Sea', '##Sea', '']),
    ('Format/Markdown', 'use heading level 2 for each type', ['# All\n## Sea\n## Salt'], ['# All', 'Sea']),
    ('Format/Markdown', 'The answer must use Markdown with two heading levels: one for A and one for B', ['# a\n## b'], ['# a\n# b', '## a', '']),
    ('Format/Markdown', 'Any headings used must not exceed level 2', ['Sea', '## Sea'], ['### Sea']),
    ('Format/Markdown', "a level 2 heading titled 'Use'", ['## Use', '## **Use:**', '## use'], ['# Use', '## Uses', 'Use']),
    ('Format/Markdown', 'The summary must begin with a heading level 1', ['# a\n## b'], ['## b\n# a', 'a']),
    ('Format/Markdown', 'be formatted as a block quote in Markdown', ['> sea'], ['sea', 'a > b']),
    ('Format/Markdown', 'use at least two block quotes', ['> a\n\n> b'], ['> a\n> b', 'a']),
    ('Format/Markdown', 'use bold and bullet points', ['- **a**', '• __a__'], ['****\n- a', '**a**', '- a']),
    ('Format/Json', 'a JSON object with at least two levels of nesting', ['{"a": {"b": 1}}', 'So:\n```\n{"a": [1]}\n```\nDone.', 'Here: {"a": {"b": 1}} it is'], ['{"a": 1}', '12', '{"a": {', '']),
    ('Format/XML', 'each XML element must have no more than one attribute', ['<a b="1"><c/></a>', '```xml\n<a b="1">'], ['<a b="1" c="2"/>', 'none', 'a < b']),
    ('Format/XML', 'If you use XML, at most 1 attribute', ['none', '<a b="1"/>'], ['<a b="1" c="2"/>']),
    ('Language/English', 'The answer must be written entirely in uppercase letters', ['THE SEA', 'A 42.'], ['The SEA', '42', '']),
    ('Language/English', 'each word must be capitalized', ['The Sea', '- The **Sea** (Wide), 3rd', "Don't Go", 'Well-known Sea', '42'], ['The sea', 'The "sea"', 'été', '...']),
    ('Language/English', 'in lowercase', ['the sea'], ['The sea', '42']),
    ('Language/English', 'All headings should be in all uppercase letters', ['# SEA\nsalt'], ['# Sea', 'SEA']),
    ('Language/English', 'Each word in the table entries must be capitalized', ['so:\n' + GRID.replace('to keep fish', 'Fish').replace('none', 'None')], [GRID, 'None']),
    ('Language/Chinese', 'The answer must be in Simplified Chinese', ['这是盐。', '海', '我用 GPU 写这个'], ['這是鹽', 'Salt (盐)', '“Salt”', '']),
    ('Language/Chinese', 'Must use Traditional Chinese characters', ['這是鹽', '鹽（NaCl）是白的'], ['这是盐', 'Salt 鹽 is white'])]


def test_every_kind_has_a_pair(): assert {f'muldimif:{type}' for type, *_ in PAIRS} == set(MULDIMIF)


@pytest.mark.parametrize('type,sentence,yes,no', PAIRS)
def test_meant(type, sentence, yes, no):
    c = Constraint(f'muldimif:{type}', {'constraint': sentence})
    assert [t for t in yes if not check(c, t, 'meant')] == [] and [t for t in no if check(c, t, 'meant')] == []


@pytest.mark.parametrize('row', departures('muldimif'), ids=str)
def test_a_departure_parts_the_readings(row): assert row[4] != row[5]


@pytest.mark.parametrize('kind', MULDIMIF)
def test_a_kind_has_its_departures(kind): assert KINDS[kind].meant and KINDS[kind].departs


@pytest.mark.parametrize('sentence,said', [
    ('Each entry in the table must end with a period', 'entry in the table'), ('Include it in every section', 'section'), ('each word is small', None),
    ('all of them', None), ('five paragraphs, each focusing on one', None), ('be long to ensure clarity in each part', None),
    ('each issue description includes it', 'issue description')])
def test_of_what_each_is_said(sentence, said): assert (muldimif._each_in(sentence) or '').strip() == (said or '')


PIECES = [GRID, TWO_ITEMS, '| a | b |\n', '|---|\n', '|', '||\n', '# Sea\n', '## ', '- ', '* ', '1. ', '> ', '**', '__', '```json\n', '```xml\n', '```', '{"a": ', '[1]', '{}',
          '}', '<a b="1">', '<', 'sea', 'Sea', 'SEA', 'salt', '盐', '鹽', '海', '“', '”', '"', "'", '’', '.', '!', '?', ';', '…', '。', ':', ',', '\n', '\n\n', ' ', '3.5', '(Lee, 1999)',
          '\u0301', '🌊', '\0', 'é', '---\n']

@pytest.mark.parametrize('type', SAID)
def test_any_text_gets_the_same_bool_twice(type):
    draw = random.Random(type)
    constraints = [Constraint(f'muldimif:{type}', {'constraint': s.format(n=n, w='sea')}) for s in SAID[type] for n in '13']
    for _ in range(400):
        c, text = draw.choice(constraints), ''.join(draw.choices(PIECES, k=draw.randint(1, 25)))
        said = check(c, text, 'meant')
        assert said in (True, False) and check(c, text, 'meant') == said
    assert not any(check(c, ' \n', 'meant') for c in constraints)
