"Texts of 100,000 characters that no answer looks like, and a model gone wrong does: what repeats one thing, opens and never closes, has no blanks."
N = 100_000


def repeated(s, n=N): return (s*(n//len(s) + 1))[:n]


LONG = {name: repeated(s) for name, s in {
    'letters': 'a', 'one-letter words': 'a ', 'words': 'sea salt ', 'prose': 'The sea is SALT, she said. ', 'lines': 'One line.\n\n', 'capitals': 'SEA ', 'no blanks': 'sea,salt.',
    'cjk': '海は青い。', 'han': '海', 'digits': '1', 'numbers': '12. ', 'emoji': '😀', 'marks on e': 'e\u0301', 'controls': '\0\x01', 'tabs': '\t \r\n', 'returns': 'a\r\n',
    'stars': '*', 'spaced stars': ' *', 'star lines': '*\n', 'newlines and stars': '\n*', 'blank lines and stars': '*\n\n', 'bullets': '- a\n', 'star bullets': '* a\n', 'numbered': '1. a\n',
    'dashes': '-', 'underscores': '_', 'equals': '=', 'hashes': '#', 'headings': '# a\n', 'pipes': '|', 'rows': '| a | b |\n', 'ticks': '`', 'fences': '```\n', 'quote lines': '> q\n',
    'open': '[', 'close': ']', 'double open': '[[', 'brackets': '[]', 'spaced open': '[ ', 'round': '(', 'round pairs': '()', 'braces': '{', 'angles': '<', 'double angles': '<<',
    'titles': '<<a>> ', 'json': '{"a":', 'quotes': '"', 'apostrophes': "'", 'curly': '“a.” ', 'quoted stops': 'a." ', 'commas': 'a, ', 'at': 'a@', 'addresses': '://', 'section': 'Section',
    'stops': '.', 'marks': '!', 'mixed ends': '?!', 'spaced stops': '. ', 'stop lines': '.\n', 'one-letter sentences': 'a. ', 'one-letter questions': 'a? ', 'one-letter cries': 'a! ',
    'initials': 'A. ', 'two initials': 'A. B. ', 'tiny sentences': 'a b. ', 'ellipses': '... ', 'p.': 'p.', 'stops in words': 'x.x ', 'tabbed stops': 'a.\t', 'dashed stops': '-.'}.items()} | {
    'spaces': 'a' + ' '*N + 'a', 'newlines': 'a' + '\n'*N + 'a', 'closing': '<<' + '>'*N, 'accents': 'e' + '\u0301\u0323'*(N//2), 'counting': ' '.join(f'{i}.' for i in range(16_000)),
    'stop and brackets': 'a. ' + ')'*N + 'x', 'stop and blanks': 'a. ' + ' '*N + 'a', 'stop and lines': 'a.' + '\n'*N + 'a', 'different words': ' '.join(map(str, range(17_000)))}

PLAIN = ('letters', 'spaces', 'newlines', 'stars', 'brackets', 'open', 'cjk')      # what a model gone wrong repeats most

SPECIAL = {'ifbench': {
'mixed marks': '([{\'"'*(N//5), 'nested': '('*(N//2) + ')'*(N//2), 'two blanks': '\n  \n'*(N//4), 'returns': 'a\r'*(N//2),
    'product': 'ProductID,Category,Brand,Price,Stock\n"' + '!'*N, 'product rows': 'ProductID,Category,Brand,Price,Stock' + ('\n"' + '!"'*(N//40) + ',a,b,c,d')*14,
    'student': 'StudentID\tSubject\tGrade\tSemester\tScore\n' + '"a"\t'*(N//4), 'dates': '1800-01-01,'*(N//11), 'accents': 'Zimbabwe' + '\u0301\u0323'*(N//2),
    'question lines': 'Question 1' + '\n'*N + 'x', 'question digits': 'Question ' + '1'*N, 'options': 'Question 1 a' + '\nA) x'*(N//5), 'italics': '<i>'*(N//3),
    'Zimbabwe': 'Zimbabwe\n'*(N//9), 'hyphens': 'x-'*(N//2)},
    'iftrain': {'phrase': 'the quick fox '*(N//14), 'first only': 'The '*(N//4), 'last only': 'salt '*(N//5), 'titles': 'Mr. '*(N//4),
    'initials': 'U.S. He '*(N//8), 'firms': ' Inc. It '*(N//9), 'letters and stops': 'a.'*(N//2), 'ends': '?!'*(N//2), 'ellipses': '.. '*(N//3),
    'marked': '<stop><prd>'*(N//11), 'closing quotes': '."'*(N//2), 'wrapped': '<<a b>> '*(N//8), 'hyphens': 'a. -'*(N//4),
    'one stop': 'x '*(N//2) + '.', 'six stars': '******'*(N//6), 'counting': ' '.join(map(str, range(N//6))), 'line of blanks': ' \n'*(N//2) + 'x'},
    'muldimif': {'tables': '| a | b |\n'*10_000, 'wide table': '|a'*50_000 + '|\n|---|\n|' + 'b|'*3, 'wide rows': ('|' + 'a|'*1000 + '\n')*49, 'headings': '## a\n'*20_000,
    'hashes': '#'*100_000, 'hash lines': '#\n'*50_000, 'bullets': '- a\n'*25_000, 'numbered': '1. a: b.\n'*11_000, 'rules': '---\n'*25_000, 'quotes': '> a\n'*25_000,
    'tags': '<a b="1">'*11_000, 'open tags': '<a b="1" '*11_000, 'half tags': "<a b='"*16_000, 'names': '<' + 'a'*99_000, 'spaces in tag': '<a' + ' '*99_000 + 'x',
    'pipes': '|'*100_000, 'bold': '**a'*33_000, 'keys': '"a":'*25_000, 'colons': ': '*50_000, 'fences': '```json'*14_000, 'brackets': '[' + '1,'*49_000 + '1]',
    'nested': '['*900 + ']'*900, 'dict': '{' + ','.join(f'"{i}": "a"' for i in range(9000)) + '}', 'sea': 'sea '*25_000, 'corners': '「'*100_000, 'one column': '|sea|\n|---|\n' + '|a|\n'*20_000}}  # suite → texts that touch what its kinds look for


def long_texts(suite):
    "Name → text, for the kinds of a suite."
    return LONG | {f'{name}, for {suite}': text for name, text in SPECIAL.get(suite, {}).items()}
