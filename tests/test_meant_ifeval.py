"""The second checks of IFEval: what a reader takes for done, and what not, by hand; random texts; long texts."""
import random
import time

import pytest

import hir.constraints.suites.ifeval as ifeval
from hir.constraints.constraint import KINDS, Constraint, ConstraintError
from hir.constraints.suites.ifeval import count_keyword, quick, straight, undressed
from hir.constraints.text import reads_as
from hir.constraints.verifier import check, check_loose, departures

KINDS_HERE = sorted(k for k, v in KINDS.items() if v.check.__module__ == ifeval.__name__)
SIX = '******'

# kind, arguments, texts that meet it, texts that do not
READ = [
    ('keywords:existence', {'keywords': ['C++', '.NET']}, ['C++ and .NET.', '**c++**, (.net)'], ['cat', 'C and NET', 'C++ only', 'ASP.NETs C++x']),
    ('keywords:existence', {'keywords': [':)']}, ['hi :)', ':)'], ['hi', ': )']),
    ('keywords:existence', {'keywords': ['[name]']}, ['Dear [name],', '**[Name]**'], ['a name', 'n']),
    ('keywords:existence', {'keywords': ['(optional)']}, ['(optional)'], ['optional']),
    ('keywords:existence', {'keywords': ['a*a*a*a*a*c']}, ['the pattern a*a*a*a*a*c'], ['a'*200, 'ac']),
    ('keywords:existence', {'keywords': ['war']}, ['War!', 'war-torn', '_war_', '“war”', "war's end", '1.war'], ['toward', 'wars', 'warm', 'pre_war_time', 'wár']),
    ('keywords:existence', {'keywords': ["don't"]}, ['I don’t.', "DON'T"], ['do not', 'dont']),
    ('keywords:existence', {'keywords': ['New York']}, ['New\nYork', '**New** York', 'new  york'], ['NewYork', 'York New']),
    ('keywords:existence', {'keywords': ['春天', 'กา']}, ['在春天里 ปากกา'], ['春 天']),
    ('keywords:existence', {'keywords': ['$100']}, ['It costs $100 now', '$100.'], ['100', '$1000']),
    ('keywords:frequency', {'keyword': 'war', 'frequency': 2, 'relation': 'at least'}, ['War and war', '**war**, war'], ['war, warm, toward', 'war']),
    ('keywords:frequency', {'keyword': 'a.b', 'frequency': 2, 'relation': 'less than'}, ['a.b axb', 'ab'], ['a.b a.b']),
    ('keywords:frequency', {'keyword': '猫', 'frequency': 2, 'relation': 'at least'}, ['猫和猫'], ['猫']),
    ('keywords:forbidden_words', {'forbidden_words': ['.NET', '猫', 'sea']}, ['ASP NET, seaside', 'overseas'], ['I use .NET', '我有一只猫在家', 'a _sea_', '**Sea**', 'SEA.']),
    ('keywords:letter_frequency', {'letter': 'é', 'let_frequency': 1, 'let_relation': 'at least'}, ['É!'], ['e']),
    ('length_constraints:number_words', {'num_words': 2, 'relation': 'less than'}, ["don't", 'state-of-the-art', 'हिन्दी', '***'], ["don't go", 'a b']),
    ('length_constraints:number_sentences', {'num_sentences': 2, 'relation': 'at least'}, ['今天很好。我们去玩。', 'Go. Stop.'], ['See no. 5 for this.', 'We use tools (e.g. a saw) daily']),
    ('length_constraints:number_paragraphs', {'num_paragraphs': 2}, ['a\n***\nb', 'a\n* * *\nb', '***\na\n***\nb\n***', 'a *** b', 'a.***b', 'a\n\\*\\*\\*\nb', '***x*** y\n***\n***\nz'],
     ['a\n---\nb', 'a ***b*** c', f'a\n{SIX}\nb', 'a\n***\nb\n***\nc', 'a\n\nb', '***\na']),
    ('length_constraints:nth_paragraph_first_word', {'num_paragraphs': 2, 'nth_paragraph': 2, 'first_word': 'sea'},
     ['a\n\nSea is', '\n\na\n\nsea', 'a\n \n**Sea**: b', 'a\n\n\n\n“Sea” b', 'a\r\n\r\nsea', 'a\n\n- sea', 'a\n\n# Sea', 'a\n\nsea-salt'], ['a\n\nseaside', 'a\n\nthe sea', 'sea', 'a\nsea', 'a\n\nb\n\nsea', 'sea\n\na']),
    ('length_constraints:nth_paragraph_first_word', {'num_paragraphs': 1, 'nth_paragraph': 1, 'first_word': "don't"}, ["Don't", 'don’t go'], ['don', "don'ts"]),
    ('length_constraints:nth_paragraph_first_word', {'num_paragraphs': 1, 'nth_paragraph': 1, 'first_word': 'Once upon'}, ['once upon a time', '*Once* upon'], ['once', 'upon once']),
    ('language:response_language', {'language': 'de'}, ['Ja.', 'Das Meer ist salzig.', 'DAS MEER IST SALZIG.', 'Otto Bauer, Berlin'], ['42', '🙂', 'The sea is salt and the sand is white.', '你好', 'Le chien dort dans la maison.']),
    ('language:response_language', {'language': 'hi'}, ['मुझे हिन्दी में लिखना पसंद है', 'हाँ'], ['20', 'Yes.', 'مرحبا']),
    ('language:response_language', {'language': 'ko'}, ['안녕하세요. 나는 Python을 좋아해요.'], ['Hello.', '今日は']),
    ('language:response_language', {'language': 'zh-cn'}, ['你好', '今天天气很好。'], ['Hello there', '1 + 1 = 2']),
    ('change_case:english_capital', {}, ['OK', 'HELLO', 'ON MONDAY I MET DR. OTTO BAUER IN BERLIN.', 'THE PARTY STARTS AT NINE TONIGHT 🎉', '400 ERROR'],
     ['Ok', '42', '!', 'DAS MEER IST SALZIG UND BLAU.', 'ПРИВЕТ', 'EL PERRO DUERME EN LA CASA GRANDE', '海']),
    ('change_case:english_lowercase', {}, ['400 error', 'ok', 'on monday i met dr. otto bauer in berlin.', '"hi"'], ['400', 'Ok', 'das meer ist salzig und blau.', 'привет', '海']),
    ('change_case:capital_word_frequency', {'capital_frequency': 2, 'capital_relation': 'at least'}, ['NASA and the FBI', "NASA's **U.S.** plan", "I'M HERE", 'YES/NO'], ['I am. I was. A man.', 'WELL-KNOWN', 'Nasa']),
    ('change_case:capital_word_frequency', {'capital_frequency': 2, 'capital_relation': 'less than'}, ['I saw A. I ran.', "I'M"], ['NASA FBI']),
    ('detectable_content:number_placeholders', {'num_placeholders': 1}, ['Dear [name]', '[address]', '[[a]]', '尊敬的[姓名]', '[000-0000]', '[____]'], ['[]', '[ ]', '[x](y)', 'a [1]', '- [x] a', '[a\nb]', 'name]']),
    ('detectable_content:postscript', {'postscript_marker': 'P.S.'}, ['Hi.\n\nP.S. Write!', 'Hi.\n**P.S.** x', 'Bye. P. S. Write', 'P.S. x', 'Hi.\n\np.s. x', 'Hi.\n\n> P.S: x'],
     ['dept.p.s. x', 'Hi.\n\nP.S.', 'Hi.\n\nP.P.S. x', 'add a P.S. here', 'P.S. x' + '\n\ny'*9, 'caps. x', 'Hi.\n\nPS: x']),
    ('detectable_content:postscript', {'postscript_marker': 'P.P.S'}, ['Hi.\n\nP.P.S x', 'Hi.\n\nP. P. S. x'], ['Hi.\n\nP.S. x', 'pxpxs x']),
    ('detectable_content:postscript', {'postscript_marker': '(x'}, ['Hi.\n(x y'], ['Hi.', 'x y']),
    ('detectable_format:number_bullet_lists', {'num_bullets': 2}, ['* a\n* b', '+ a\n+ b', '- a\n\n• b', '> - a\n> - b', '* a\n  * c\n  * d\n* b', '*a\n*b', '  - a\n  - b', '* **a**\n* b\n---'],
     ['-5\n-6', '---\n---', '1. a\n2. b', '**a**\n**b**', '*a* x\n*b* y', '* \n- ', '* * *\n* * *', '- a\n- b\n- c', 'x']),
    ('detectable_format:number_highlighted_sections', {'num_highlights': 2}, ['*a* **b**', '***a*** *b*', '_a_ __b__', '**a:**b *c*', '重*点*内*容*', '* *a*\n* *b*'],
     ['2 * 3 * 4', '2*3*4*5', '***x***', '* a\n* b *c*', '** ** *a*', '*a\nb* *c*', 'a_b_c_d', '*_x_*', '____', r'\*a\* \*b\*']),
    ('detectable_format:multiple_sections', {'section_spliter': 'Section', 'num_sections': 2},
     ['Section I\nx\nSection II\ny', '**Section 1:** a\n**Section 2:** b', '# SECTION one\na\n# SECTION two\nb', 'Section A. x\nSection B. y', 'Section 1 a. Section 2 b', '"Section 1: a"\n"Section 2: b"',
      'Section 1: a\nSection 2: b\n\nSection 1\na\nSection 2\nb'],
     ['Section 1\nSection 2', 'Section 1 a\nSection 2 b\nSection 3 c', 'as in section 1 and section 2', 'Section a\nSections', 'Section 1 a']),
    ('detectable_format:json_format', {}, ['{}', '[1]', '```jsonc\n{"a":1}\n```', '```JSON5\n{}\n```', '`{"a": 1}`', '\ufeff{}', '```json\n{"a": 1}'], ['42', '"a"', 'NaN', '[NaN]', 'true', 'Here: {}', '{a: 1}', '```\nx\n```']),
    ('detectable_format:title', {}, ['<<Sea>>', 'x\n# << Sea >>', '**<<a b>>**', '《春天》', '«Mer»', 'a <<b>>'], ['1 << 2; y >> 1', 'cout<<x>>y', '<<>>', '<<->>', '<<a\nb>>', '<Sea>', '>>a<<']),
    ('detectable_format:constrained_response', {}, ['My answer is yes.', 'my answer is yes.', '**My answer is no.**', 'My answer is maybe', 'Well. “My answer is no.”'],
     ['yes', 'My answer is not sure.', 'My answer is yes. My answer is no.', 'My answer: yes.']),
    ('combination:two_responses', {}, [f'a\n{SIX}\nb', f'{SIX}\na\n{SIX}\nb\n{SIX}', 'a\n* * * * * *\nb', f'a{SIX}b', f'a\n{SIX}\n{SIX}\nb'], [f'Sea.\n{SIX}\n**sea.**', f'a\n{SIX}', 'a\n***\nb', f'a\n{SIX}*\nb', f'a{SIX}b{SIX}c']),
    ('combination:repeat_prompt', {'prompt_to_repeat': "What's  salt?\nSay *it*."}, ["What's salt? Say it. A taste.", "**What’s salt? Say it.**\n\nA taste.", "what's  salt?\nsay *it*.\nA taste."],
     ["What's salt? Say it.", '"What\'s salt? Say it." A taste.', "Sure. What's salt? Say it. A taste.", "What is salt? Say it. A taste."]),
    ('combination:repeat_prompt', {'prompt_to_repeat': 'Say hi'}, ['Say hi. hi', 'SAY HI 海'], ['Say higher', 'Say hi!']),
    ('startend:end_checker', {'end_phrase': 'The end.'}, ['So. **The end.**', 'x. The end."', 'x. The end.)', 'it was. the end.', 'x. THE END.', '*The end.* 🙂', 'x. The end.\n```'], ['Not the end.', 'The end', 'The end. Bye.', 'x']),
    ('startend:end_checker', {'end_phrase': '"no"'}, ['He said "no"', 'He said “no”.'], ['He said "no" twice']),
    ('startend:end_checker', {'end_phrase': 'your love, and thanks.'}, ['x.\n\nYour love, and thanks.'], ['colour love, and thanks']),
    ('startend:quotation', {}, ['"a"', '“All of it.”', '**"a"**', '"He said "hi" to me."', '"a"\n\n"b"', '「海」', '«a»', '„a“', '"a".', '""a"', '“他说“好”。”'],
     ['"a" and "b"', '“a” and “b”', '""', '"', '"a', 'a"', "'a'", '"a" b', '"Title"\n\ntext "x"', '“你好”他说“再见”']),
    ('punctuation:no_comma', {}, ['a; b', 'a.', '1 000'], ['a, b', '1,000', '你好，海', '海、空', 'أ، ب', 'a､b'])]


@pytest.mark.parametrize('kind, args, yes, no', READ, ids=lambda x: x if isinstance(x, str) else '')
def test_a_reader_takes_it_for_done_or_not(kind, args, yes, no):
    c = Constraint(kind, args)
    assert ([t for t in yes if not check(c, t, 'meant')], [t for t in no if check(c, t, 'meant')]) == ([], [])


def test_every_kind_is_read():
    assert {kind for kind, *_ in READ} == set(KINDS_HERE)
    assert [k for k in KINDS_HERE if not KINDS[k].meant] == ['keywords:letter_frequency']


def test_every_departure_parts_the_two_readings():
    rows = departures('ifeval')
    assert not [row for row in rows if row[4] == row[5]] and len(rows) > 60
    assert {row[0] for row in rows} == {k for k in KINDS_HERE if KINDS[k].meant}


@pytest.mark.parametrize('kind', KINDS_HERE)
def test_blank_and_empty_do_not_meet_anything(kind):
    c = Constraint(kind, KINDS[kind].example)
    assert not any(check(c, t, 'meant') or check_loose(c, t, 'meant') for t in ('', ' \n', '\u3000'))


def test_dress_and_quotes():
    for text, bare in {'**a** _b_ `c`': 'a b c', '# a\n> b': 'a\nb', '* a': '* a', '2 * 3': '2 * 3', 'a*b*c': 'a*b*c', '**a:**b': 'a:b', '“a” ‘b’': '"a" \'b\'',
                       'snake_case __x__': 'snake_case x', '```js\nx\n```\ny': 'x\ny', '***\n* * *': '***\n* * *', '#tag': '#tag', '': ''}.items():
        assert undressed(text) == bare
        assert undressed(undressed(text)) == undressed(text)
    assert straight('«a» 「b」') == '"a" "b"'


def test_keywords_are_counted_once_each_and_whole():
    for text, keyword, n in [('aaa', 'aa', 0), ('a a a', 'a a', 1), ('猫猫猫', '猫猫', 1), ('++++', '++', 2), ('x**y**', '**', 2), ('', 'a', 0), ('Straße', 'STRASSE', 1), ('a', ' a ', 1), ('ﬁne', 'fine', 1)]:
        assert (text, count_keyword(text, keyword)) == (text, n)


def test_what_the_official_check_cannot_run_is_said_and_the_other_runs():
    for kind, args in [('keywords:existence', {'keywords': ['sea', ':)']}), ('keywords:frequency', {'keyword': '(x', 'frequency': 1, 'relation': 'at least'}),
                       ('keywords:forbidden_words', {'forbidden_words': ['*']}), ('detectable_content:postscript', {'postscript_marker': 'P.S.('}),
                       ('detectable_format:multiple_sections', {'section_spliter': '[', 'num_sections': 1})]:
        c = Constraint(kind, args)
        assert 'must be' in c.refused and check(c, 'A text.', 'meant') in (True, False)
        with pytest.raises(ConstraintError, match='must be'): check(c, 'A text.')
    assert quick('a')(a='sea') == quick('a', 'b')(a=['sea'], b='c.t') == '' != quick('a', form='({}'.format)(a='sea')


def test_a_language_is_doubted_only_where_it_is_clear():
    for text in ('I saw the sea today.', 'Ich sah heute das Meer.', 'Hoy vi el mar azul.', "J'ai vu la mer.", 'Vi il mare oggi.', 'Dzisiaj widziałem morze.', 'Сегодня я видел море.', '今日は海を見ました。', '오늘 바다를 봤어요.'):
        codes = [code for code in ('en', 'de', 'es', 'fr', 'it', 'pl', 'ru', 'ja', 'ko') if reads_as(text, code)]
        assert 1 <= len(codes) <= 4, (text, codes)
    assert not any(reads_as(t, 'en') for t in ('', '12', '?!', '🙂'))


PIECES = ['*', '**', '***', SIX, '\n', '\n\n', ' ', '- ', '* ', '+ ', '[', ']', '](', '<<', '>>', '"', "'", '“', '”', '„', '.', '...', ',', '，', '{', '}', '```', '```json', '#', '> ', 'P.S.', 'P.P.S',
          'Section 1', 'Section II', 'sea', 'SALT', 'My answer is no.', 'The end', 'Dr.', '1.', '!', '\r', '\u2028', '\0', '海', 'é', 'e\u0301', 'ि', '🙂', '\u200d', '\\', '_', '__', '`', 'I', '\ufeff', 'İ', 'ß', '\ud800']

def test_random_texts_get_the_same_answer_twice():
    draw = random.Random(0)
    for _ in range(200):
        text = ''.join(draw.choice(PIECES) for _ in range(draw.randrange(1, 30)))
        for kind in KINDS_HERE:
            c = Constraint(kind, KINDS[kind].example)
            first = check(c, text, 'meant')
            assert first in (True, False) and first == check(c, text, 'meant') and check_loose(c, text, 'meant') >= first


@pytest.mark.parametrize('unit', ['a ', '* *\n', '**a', '_a', '`', '> ', '“', ' "', '[a', '<<a', '\nP.S.', '\nSection 1', '\\*', '\n \n', 'a猫'])
def test_long_texts_are_quick(unit):
    text = (unit*100_000)[:100_000]
    cs = [Constraint(kind, KINDS[kind].example) for kind in KINDS_HERE if 'sentences' not in kind]
    cs += [Constraint('keywords:existence', {'keywords': [k]}) for k in ('a', 'a a', 'aa', '**', '猫a', 'a'*300, '"', '_ _')]
    cs += [Constraint('detectable_format:multiple_sections', {'section_spliter': s, 'num_sections': 2}) for s in ('*', 'a', '"')]
    for c in cs:
        start = time.process_time()
        check(c, text, 'meant')
        assert time.process_time() - start < 2, c.kind
