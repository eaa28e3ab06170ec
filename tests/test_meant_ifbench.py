"What IFBench's sentences mean: hand-made responses that meet them and that do not, for each of the 58 kinds."
import random
from functools import partial
from itertools import chain

import pytest

import hir.constraints.suites.ifbench as ifbench
from hir.constraints.constraint import KINDS, Constraint
from hir.constraints.verifier import check, check_loose, departures
from suites import takes_steps_in_proportion

IFBENCH = sorted(k for k, v in KINDS.items() if v.check.__module__ == ifbench.__name__)
FIVE = {f'keyword{i}': k for i, k in enumerate('art sea C++ fog ice'.split(), 1)}
WHY, SPAN = {'prompt_to_repeat': 'Why is "it" so?'}, {'prompt_to_repeat': 'Why is the sea salt today?', 'n_start': 2, 'n_end': 4}
REFERENCE = {'reference_text': 'the sea is salt and wide today', 'percentage': 60}
CITY, STUDENT = 'ID,Country,City,Year,Count', '"StudentID"\t"Subject"\t"Grade"\t"Semester"\t"Score"'
PRODUCT, CITIES = 'ProductID,Category,Brand,Price,Stock', ', '.join(ifbench._CITIES)
AFRICA, LETTERS = '\n'.join(reversed(ifbench._AFRICA)), 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
TEN, STORY = 'level radar civic kayak madam refer rotor tenet solos stats', ' '.join(f'{c}xa came. ' for c in LETTERS)

def quiz(label='Question {i}:', option='A) x', n=4, grow=1):
    return '\n\n'.join(f'{label.format(i=i)} {"Who "*(i if grow else 1)}?\n{option}\nB) x\nC) x\nD) x\nE) x' for i in range(1, n + 1))

# kind, arguments, responses that meet it, responses that do not
TABLE = [
 ('count:word_count_range', {'min_words': 2, 'max_words': 2}, ["don't go", 'don’t go', '* well-known\n* sea', 'Sea – sand'], ['sea', 'a b c']),
 ('count:unique_word_count', {'N': 2}, ['Sea and', "it's its"], ['Sea, “sea” – *sea*', '- sea', 'sea _sea_']),
 ('count:numbers', {'N': 2}, ['2-3', '1,2', '1,000.5 and 7', '1. Take 2\n2. Take 3', '10:30', 'in 1999–2004', 'from 5 to 10%', '**1** 2'], ['23', '1 2 3', 'two cats', '2-3-4']),
 ('ratio:stop_words', {'percentage': 50}, ["don't cook", 'don’t cook', 'the _sea_', 'sea'], ['***', "don't go to it", 'the', 'I’m it sea']),
 ('count:conjunctions', {'small_n': 2}, ['sea and/or sun', 'Sea—and sun “but” no', 'and, but'], ['and And AND', 'and. and, and!', 'sand butter']),
 ('count:person_names', {'N': 2}, ['EMMA met LEO', '_Emma_ met **Leo**', "Emma's and Leo’s", 'Emma/Leo'], ['Emma, Emma', 'Miami is Available', 'emma and leo', 'Leonardo met Emma']),
 ('count:pronouns', {'N': 2}, ['Others help one another.', '_She_ saw _it_', 'I’m sure you’re', 'she/her', 'myself, oneself'], ['The sea', 'She swims', 'sheet items']),
 ('words:repeats', {'small_n': 2}, ["It's its own. Its.", 'a – b – c – d', 'sea sea salt'], ['Sea, “sea”, sea', '***', '**sea** sea Sea', 'Sea\nSea\n_sea_']),
 ('count:keywords_multiple', FIVE, ['art start smart. sea sea C++ c++ C++, fog fog fog fog fog ' + 'ice '*7, 'ART **sea** _sea_ C++ C++ (C++) fog fog fog fog fog ' + 'ice, '*7],
  ['art art sea sea C++ C++ C++ fog fog fog fog fog ' + 'ice '*7, 'art sea sea C C C fog fog fog fog fog ' + 'ice '*7]),
 ('sentence:keyword', {'word': 'C++', 'N': 2}, ['Oh. I write C++ code.', 'Oh! **C++** it is', 'Is it? “C++”.', 'Dr. Who came. C++!'], ['C++. Oh.', 'Oh. See.', 'C++']),
 ('sentence:keyword', {'word': 'cat', 'N': 1}, ['A _cat_ is.', 'Cat-like it is', 'The cat’s'], ['The category.', 'Oh. A cat']),
 ('sentence:keyword', {'word': '猫', 'N': 2}, ['今天很好。我有一只猫。'], ['我有一只猫。今天很好。']),
 ('words:keywords_specific_position', {'keyword': "don't", 'n': 2, 'm': 2}, ["Oh! I don't.", 'Oh! **I** don’t go'], ["I don't.", "Oh! Don't I", 'Oh!']),
 ('words:keywords_specific_position', {'keyword': 'sea', 'n': 1, 'm': 3}, ["Don't you, sea?", '"The – salt sea"', 'The well-known sea.'], ['The sea', 'The salt seaside']),
 ('words:words_position', {'keyword': 'whisper'}, ['A "whisper" came, a whisper now', 'A whisper came, a whisper now...', 'The whisper is a whisper here!?', 'Well, whisper on, whisper stops.',
  'The **whisper** is a _whisper_ now”', 'Whisper whisper'], ['The whisper is a whisper!?', 'The shout is a shout!?', 'whisper', 'Whisper a b whisper']),
 ('words:alphabet', {}, ['A big café dares école', 'A big – cat', '1. Yes\n2. Zoo\n3. Ant', '“Big” *cat*', '“A” “big” cat'], ['A cat', '1 b', '...', 'A b d']),
 ('words:vowel', {}, ['The sea\nis wet.', 'A big salt', 'the beet needs sun', 'sun'], ['Bcd', 'A big, old café', 'The sea\n\nis', 'aeiou', '***', 'The sea\n \t\nis']),
 ('words:consonants', {}, ['Salty – fresh', "Don't!", '1. Salt\n2. Sand', 'The “salt”', 'don’t'], ['The sea', '---', 'salt a']),
 ('words:palindrome', {}, [TEN, TEN.replace(' ', '” “'), ' '.join(f'**{w}**,' for w in TEN.split()), TEN.upper().replace(' ', ' Level ')],
  ['level '*10, ' '.join(f'{n}21{n}' for n in range(10, 30)), TEN[6:], ' '.join(c*5 for c in 'abcdefghijkl')]),
 ('words:prime_lengths', {}, ['The sea – red', '“it” is', "It's red", 'The **sea**'], ['!!', 'a sea', '“salt”', 'don’t']),
 ('words:no_consecutive', {}, ['Go home again\n\nA new day', '1 12 people', '# Sea\nSalt', 'A – big cat'], ['The sea – salt', '“sea” salt', '...', 'Sea salt']),
 ('words:odd_even_syllables', {}, ['Salty – sea', "Sea didn't", 'The 9 water', '“water” sea'], ['The sea', '9 10', 'Water – water']),
 ('words:last_first', {}, ['I saw the sea. Sea, I said.', 'See the **sea**. *Sea* is.', 'I saw the “sea.” “Sea” is.', 'Is it sea? Sea!'], ['I saw the sea.', 'Sea. Salt.', 'No']),
 ('words:paragraph_last_first', {}, ['Sea, or **sea**', '**cats** are **cats**', '# Title here\n\nSea is sea.', '“Sea” is “sea.”'], ['Sea', 'Sea is salt', 'Sea and\nsea', '---']),
 ('ratio:sentence_type', {}, ['He said "yes." She left. Why?', 'She said "Really?" He nodded. It is fine.', 'It is. It is. **Is it?**', '今天很好。我们去玩。好吗？', 'It is. It was! It is. Is it?'],
  ['Wow! Amazing!', 'Sea', 'It is. Is it?', 'It is. It is. It is. Is it?', 'Sea!']),
 ('ratio:sentence_balance', {}, ['It is. Is it? It is!', '“It is.” “Is it?” “It is!”', 'It is. 🌊 Is it? It is! 🌊'], ['Sea', 'It is. Is it?', '***', '{"a": 1}']),
 ('ratio:sentence_words', {}, ['Cat. Dog. Owl.', 'Cat! Dog? Fox.', 'Cat, red. Dog, tan. Fox, sky.', '**Cat.** Dog. Owl.', '1. Cat.\n2. Dog.\n3. Owl.'],
  ['Cat. Cat. Cat.', 'Cat cat. Dog fox. Owl yak.', '... ... ...', 'Cat. Longer. Fox.', 'Cat. Dog.', 'Cat. CAT. Dog.']),
 ('sentence:increment', {'small_n': 2}, ['One. Two – three four.', '**One**. Two, three four!', "Don't. Two-fold is well-known."], ['One.', 'One. Two three.', 'No']),
 ('sentence:alliteration_increment', {}, ['Silver sea, big boat. Big blue boats.', 'The sea. A “silver” sea. Big – blue boats.'], ['Sea.', 'Big blue boats. Silver sea.', 'The sea. A cat.']),
 ('words:start_verb', {}, ['Run fast today.', '**Use** a cup.', 'Can you go?', 'Write code.', 'Is it so?', 'Running is fun.', "Don't go.", '1. Mix it', '# Explore the sea', '“Go!”', 'Plan the trip.',
  'Let’s go', 'Imagine a sea'], ['* Our sea', 'The sea runs.', 'Plans are made.', 'Sea', 'Spring is near', '42', 'Nothing runs', '...', 'Answer: yes']),
 ('count:punctuation', {}, ['Well: a, b; c. Why?!', 'Well: a, b; c. Why‽ Oh! So?', '好：是，不；好。真的？！', 'a. b, c; d: e‽ f! g?'], ['Well: a, b; c. Why?', 'Why?!', 'a. b, c; d: e‽']),
 ('format:parentheses', {}, ['(a [b {c (d [e :} f]) g}])', '(((((a)))))', '（（（（（好）））））', 'a) (b [c {d (e [f] g)} h])'], ['((((( a )', '((((a))))', '()()()()()', '(((((']),
 ('format:quotes', {}, ['"a \'b "c" b\' a"', '“a ‘b “c” b’ a”', """"I don't 'see "it" now' yet" """], ['"a \'b\' a"', '"It\'s" Bob\'s', "don't it's 'a'", 'a']),
 ('format:quote_unquote', {}, ['"Sea" means water', '“Sea” means water', '"a" is b, “c” is d.', '「海」 is sea', '"Sea", that is water'], ['“a” “b”', '"a". "b" c', 'He said "sea."', 'Sea']),
 ('format:line_indent', {}, ['a\n\n\n b\n  c', 'a\n\tb\n\t\tc', '```\na\n b\n```', 'a\n b\n\n\n', '- a\n  - b'], ['a', 'a\nb', 'Sure!\na\n b', 'a\n b\n b']),
 ('format:title_case', {}, ["Don't Stop", 'The Sea of Salt', 'Don’t Stop', '**The Sea**', 'Well-known Facts', '3rd Place', 'THE SEA', '“The Sea” and the Sun'],
  ['iPhone Sea', 'the Sea', 'The sea', '...', 'i Am', 'dON', 'It is Salt', 'of the']),
 ('format:newline', {}, ['The\n \nsea', '1. The\n2. sea', 'The\n\n- sea\n–', '3.14\n**sea**', 'I\ndon’t'], ['The sea', 'The sea\n \nis', '***', 'a\nb c']),
 ('format:no_whitespace', {}, ['The-sea\n', 'Sea', ' sea'], ['The sea', 'The\u2800sea', 'The\nsea', 'The\u200bsea', 'The\u00a0sea', 'a\u3000b']),
 ('format:output_template', {}, ['My Answer: a My Conclusion: b Future Outlook: c', '**My Answer**: a\n\n**My Conclusion**: b\n\n**Future Outlook**: c', '## My Answer:\na\n## My Conclusion:\nb\n## Future Outlook:\nc'],
  ['My Conclusion: a Future Outlook: b My Answer: c', 'My Answer: My Conclusion: Future Outlook:', 'Sure! My Answer: a My Conclusion: b Future Outlook: c', 'My Answer: a']),
 ('format:list', {'sep': '-'}, ['- a\n- b', 'Here:\n- a - b', '- **well-known**\n- b'], ['a well-known, up-to-date sea', '--', '- a', '2-3, 4-5', 'a\n---\nb', '|---|---|\n|a|b|']),
 ('format:list', {'sep': 'SEPARATOR'}, ['SEPARATOR a\nSEPARATOR b', 'SEPARATOR\na\nSEPARATOR\nb', 'a SEPARATOR b SEPARATOR c', '**SEPARATOR** a **SEPARATOR** b'], ['SEPARATOR SEPARATOR', 'a', 'SEPARATOR a']),
 ('format:sub-bullets', {}, ['* a\n  - b\n* c\n  - d', '* **a**\n - b', 'So:\n* a\n\n  - b\n  - c', '* a\n\t- b'], ['* early-morning walk\n* late-night talk', 'sea', '* a\n* b\n - c', '- a\n- b', '*a*\n- b', '* a - b']),
 ('format:no_bullets_bullets', {}, ['It is. It was.\n* a\n* b', 'It is. It was.\n\n* a\n* b\n', 'It is.\n\nIt was.\n\n* **a**\n\n* b\n\nSo.', 'He said "yes." She left.\n* a\n* b', '**It is.** It was.\n* a\n* b'],
  ['a\nb\n* c\n* d', 'It is. It was.\n**a**\n**b**', '* a\n* b', 'It is.\n* a\n* b', 'It is! Is it?\n* a\n* b', '* a\n* b\nIt is. It was.', 'It is. It was.\n- a\n- b']),
 ('format:options', {'options': 'more, less'}, ['more', '**Less.**', '“More”', 'My answer is more.', 'Answer: less'], ['M', 'm', 'more or less', 'more, because it is', 'e']),
 ('format:options', {'options': 'north, south or east'}, ['north', 'East.', 'South'], ['north, south', 'th', 'west']),
 ('format:options', {'options': 'a), b), c), d)'}, ['a)', 'D)', '(b)', 'c', '**a)**'], ['e)', 'a) b)', 'a) since']),
 ('format:options', {'options': "I know or I don't know"}, ['I know', 'I don’t know.', "_I don't know_"], ['Maybe', "I know or I don't know"]),
 ('format:thesis', {}, ['<i>Sea.</i> It is salt.', '<em>Sea.</em> It is', '<I class="t">Sea</I> is', '# A\n<i>Sea.</i> It is.\n# B\n<i>Salt.</i> It is.', 'Intro.\n\n**A**\n\n<i>Sea.</i> It is.', '<p><i>Sea.</i> It is.</p>'],
  ['The <i>sea</i> is salt', '# A\n<i>Sea.</i> Is.\n# B\nSalt.', '<em></em> sea', '<i>Sea</i>', '*Sea* is', '<i>sea']),
 ('format:emoji', {}, ['Sea 🇫🇷.', 'Sea! 🌊 Sun. 👩‍👩‍👧', 'Sea 1️⃣', 'Sea 🤷‍♀️. Sun 👍🏽!', 'Sea ❤️', '**Sea 🌊.** Sun! 🌞', '# The sea\n\nIt is. 🌊', 'Sea. 🏴󠁧󠁢󠁥󠁮󠁧󠁿'], ['Sea.', 'Sea. Sun 🌞', '😀 Sea.', '🌊', 'Sea :)']),
 ('count:words_japanese', {'N': 2}, ['The 海 is 青い', 'The – 海', 'a 海 b', '海 です', '1. a 々'], ['The 海 is 42', 'Sea', 'The sea', 'The sea 海 is']),
 ('ratio:overlap', REFERENCE, ['the sea is salt and cold now', 'The “sea” is **salt** and cold now.'], ['the sea is salt and wide today', 'sea', 'a cold day in the sun']),
 ('repeat:repeat_change', WHY, ['How is "it" so?', '"How is “it” so?"', 'How is "it"  so?', '**How** is "it" so?'], ['Why is "it" so?', 'Why,  is "it" so?', 'why is "it" so?', 'How is "it" so? So.', 'Sure! How is "it" so?']),
 ('repeat:repeat_simple', {}, [ifbench._SIMPLE, f'"{ifbench._SIMPLE}"', f'**{ifbench._SIMPLE}**', ifbench._SIMPLE[:-1]], [ifbench._SIMPLE + ' Ok', 'Sure', ifbench._SIMPLE*2]),
 ('repeat:repeat_span', SPAN, ['the sea salt', '"the sea salt"', 'THE SEA SALT', 'y i'], ['the sea', 'Why is the sea salt today?', 'salt']),
 ('custom:multiples', {}, ['14, 21, 28, 35, 42, 49', '\n'.join(f'{i}. {i*7 + 7}' for i in range(1, 7)), '```\n14\n21\n28\n35\n42\n49\n```', '14, 21, 28, 35, 42 and 49.'], ['7 14 21 28 35 42 49', '14 21 28', 'ten']),
 ('custom:date_format_list', {}, ['1796-04-12, 1815-06-18', '1796-04-12,\n1815-06-18.', '**1796-04-12**, 1815-06-18', '1796-04-12, 1815-06-18,'], ['1796-04-12, 1815-00-00', '1796-02-30, 1815-06-18', '1815-06-18', '1769-08-15, 1815-06-18',
  '١٨٠٥-١٢-٠٢, 1815-06-18', '1796-4-12, 1815-06-18', '1796-04-12 1815-06-18']),
 ('custom:character_reverse', {}, ['.su eht fo lobmys lanoitan eht si elgae dlab ehT', 'elgae dlab', 'elgae\ndlaB', '**.elgae dlab a si tI**'], ['The animal is: elgae dlab', 'The bald eagle', 'elgae bald']),
 ('custom:word_reverse', {}, ['.US the of bird national the is eagle bald The', 'Eagle bald.', 'eagle bald the is US the of symbol national The', '**eagle bald the is It**'], ['nothing eagle bald', 'The animal is the eagle bald', 'The bald eagle is', 'bald eagle']),
 ('custom:sentence_alphabet', {}, [STORY, '“' + STORY, STORY.replace('Exa', 'Éxa'), '\n'.join(f'{c}. {c}xa came.' for c in LETTERS), '# A story\n\n' + STORY, '\n'.join(f'**{c}**xa came.' for c in LETTERS)], [STORY[10:], STORY + ' Axa came.', 'Axa']),
 ('custom:european_capitals_sort', {}, [CITIES, CITIES + '.', CITIES.replace('Prague', 'Kyiv, Prague'), CITIES.replace(', Zagreb', ', and Zagreb'), CITIES.replace('Chisinau', 'Chișinău'), f'**{CITIES}**'], [CITIES[11:], CITIES.replace('Riga, ', ''), 'Oslo', 'Kyiv, ' + CITIES]),
 ('custom:reverse_newline', {}, [AFRICA, '\n'.join(f'{i}. {n}' for i, n in enumerate(AFRICA.split('\n'), 1)), 'Here they are:\n\n' + AFRICA.replace('\n', '\n\n'), AFRICA + '\n\nThere are 54 of them in all, as the United Nations count.', AFRICA.replace('Gambia', 'The Gambia'),
  '\n'.join(f'- {n}' for n in AFRICA.split('\n'))], ['Zimbabwe\n' + 'Egypt\n'*51, '\n'.join(ifbench._AFRICA), AFRICA.replace('\n', ', '), AFRICA[:200], AFRICA.replace('Zambia', 'Zambia\nZ')]),
 ('custom:csv_city', {}, [CITY + '\n1,a,"b, c",2,3'*7 + '\n\n', f'```csv\n{CITY}' + '\n1,a,b,2,3'*7 + '\n```', 'Here:\n```\n' + CITY + '\n1,a,b,2,3'*7 + '\n```\nDone.', CITY.replace(',', ', ') + '\n1, a, "b, c", 2, 3'*7, CITY + '\r\n1,a,b,2,3'*7],
  [CITY + '\n1,a,b,2,3'*6, CITY + '\n1,a,b,2'*7, 'ID,City' + '\n1,a,b,2,3'*7]),
 ('custom:csv_special_character', {}, [f'{PRODUCT}\n1,"a&b",c,d,e' + '\n1,a,b,c,d'*13, f'```\n{PRODUCT}\n1,a,"b, c",d,e' + '\n1,a,b,c,d'*13 + '\n```', PRODUCT + '\n1,a,b,c,"d!"'*14 + '\n\n'],
  [f'{PRODUCT}\n1,"a&b",c,d,e' + '\nx'*13, f'{PRODUCT}\n1,a&b,c,d,e' + '\n1,a,b,c,d'*13, f'{PRODUCT}\n1,"ab",c,d,e' + '\n1,a,b,c,d'*13]),
 ('custom:csv_quotes', {}, [STUDENT + '\n"1"\t"a"\t"b"\t"c"\t"2"'*3 + '\n\n', f'```tsv\n{STUDENT}' + '\n"1"\t"a"\t""\t"c"\t"2"'*3 + '\n```', STUDENT.replace('\t', '\t ') + '\n"1"\t "a"\t "b"\t "c"\t "2"'*3],
  [STUDENT + '\n1\t"a"\t"b"\t"c"\t"2"'*3, STUDENT + '\n"1"\t"a"\t"b"\t"c"\t"2"'*2, STUDENT + '\n"1"\t\t"b"\t"c"\t"2"'*3, STUDENT.replace('"', '') + '\n"1"\t"a"\t"b"\t"c"\t"2"'*3]),
 ('custom:mcq_count_length', {}, [quiz(), quiz('**Question {i}:**'), quiz(option='A) "x"'), quiz('Question:'), '# Quiz\n\n' + quiz('### Question {i}'), quiz(option='- (a) x').replace('B)', 'b)')],
  [quiz(n=3), quiz(grow=0), quiz('{i}.'), quiz(option='x')]),
]


def test_every_kind_is_in_the_table(): assert {k for k, *_ in TABLE} == set(IFBENCH)


@pytest.mark.parametrize('kind,args,good,bad', TABLE, ids=[k for k, *_ in TABLE])
def test_what_is_meant(kind, args, good, bad):
    c = Constraint(kind, args)
    assert [r for r in good if not check(c, r, 'meant')] == [], 'these meet it'
    assert [r for r in bad if check(c, r, 'meant')] == [], 'these do not'


def test_departures_part_the_readings():
    rows = departures('ifbench')
    assert len(rows) > 140 and {r[0] for r in rows} <= set(IFBENCH)
    assert [r for r in rows if r[4] == r[5]] == []


def test_any_keyword_is_taken():
    "The longest that the official check is asked is 700 characters."
    c = Constraint('sentence:keyword', {'word': 'sea '*200, 'N': 1})
    assert "argument 'word' must be at most 700 characters, not 800" in c.refused
    assert check(c, 'The ' + 'sea '*200 + 'is.', 'meant') and not check(c, 'The sea.', 'meant')


# ---- any text

PIECES = list(chain('*_`#>-+•.!?…,;:"\'“”‘’「」()[]{}<>|\\/~=&@$%^ \n\t\r\0\u200d\ufe0f\u2028\u3000', ['\n\n', '***', '```', '<i>', '</i>', '<em>', 'My Answer:', 'Question 1:',
    'sea', 'Sea', "don't", 'é', 'ß', 'İ', 'ǅ', 'ﬁ', '海', 'です', 'का', 'ไทย', '😀', '🇫🇷', '1️⃣', '٣', '²', '14', '1,000', '2-3', 'Zimbabwe', 'eagle bald', '1. ', '* ', '- ', 'a) ', '\ud800']))

def some_texts(n, seed=0):
    rng = random.Random(seed)
    for _ in range(n): yield rng.choice(['', ' ']).join(rng.choice(PIECES) for _ in range(rng.randrange(40)))


@pytest.mark.parametrize('kind', IFBENCH)
def test_any_text_gets_the_same_bool_twice(kind):
    c = Constraint(kind, KINDS[kind].example)
    for text in some_texts(300):
        said = check(c, text, 'meant')
        assert said in (True, False) and said == check(c, text, 'meant') and (text.strip() or not said)
    for text in some_texts(30, 1): assert check_loose(c, text, 'meant') >= check(c, text, 'meant')


@pytest.mark.parametrize('kind', IFBENCH)
def test_work_grows_with_the_text(kind, monkeypatch):
    monkeypatch.setattr('suites.check', partial(check, reading='meant'))
    takes_steps_in_proportion(Constraint(kind, KINDS[kind].example))
