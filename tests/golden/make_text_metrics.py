"""Golden figures of texts: rouge-score, sacrebleu, and SQuAD's script.

The official SQuAD script is no package; what it computes is written down here
anew from its description (Rajpurkar et al. 2016, sec. 6.1)."""

import collections
import importlib.metadata
import json
import re
import string

import sacrebleu
from nltk.stem import porter
from rouge_score import rouge_scorer

from common import HERE

# (text, references). Several references; nothing at all; case, numbers and
# punctuation; letters, blanks and digits outside ASCII that lower-casing,
# splitting or word boundaries treat in ways of their own.
PAIRS = [
    ("The quick brown fox jumps over the lazy dog.",
     ["A quick brown dog jumps over the lazy fox.",
      "The fast brown fox leaps over a lazy dog!"]),
    ("the the the the the", ["the cat is on the mat", "the the"]),
    ("", ["nothing was said"]),
    ("something", [""]),
    ("", [""]),
    ("The", ["an", "a"]),
    ("a.m. and p.m., 3.14 or 1,000,000; 5-6 and 7 -8, U.S.A.",
     ["A.M. and PM, 3.14 or 1,000,000; 5 - 6 and 7-8: USA"]),
    ("&quot;Fish &amp; chips&quot; cost &lt; 10&gt;5 &apos;s",
     ['"Fish & chips" cost < 10 > 5 \'s']),
    ("hyphen-\nated words\nover lines -\n", ["hyphenated words over lines -"]),
    ("tokens <skipped> and {braces} [brackets] `ticks` ~tilde~ a|b^c",
     ["tokens and { braces } [ brackets ] `ticks` ~ tilde ~ a | b ^ c"]),
    ("1990-1995, e.g. in ,5 or .5.,., and 5,",
     ["1990 - 1995 , e.g. in , 5 or .5 , and 5 ,"]),
    ("Der Fluß heißt ÄRGER über Öl", ["der fluss heisst ärger über öl"]),
    ("ΟΔΟΣ ΣΟΦΙΑΣ ΑΣ.", ["οδος σοφιας ας"]),
    ("İstanbul'da 300 K ve 5 Å", ["i̇stanbul da 300 k ve 5 å"]),
    ("«Привет, мир» — сказал он…", ["«ПРИВЕТ, МИР» — сказал ОН…"]),
    ("東京　タワー、です。", ["東京 タワー、です。"]),
    ("non breaking thin space line", ["non breaking thin space line"]),
    ("a\x1cb\x85c\x1fd", ["a b c d"]),
    ("naïve the-café an_apple the_end anécdota", ["naïve café apple end"]),
    ("théa the‑a the’s a1 a é",
     ["théa s a1 é", "THÉA a‑s A1 É"]),
    ("٣٫١٤ , ५.६ and ①.②", ["٣٫١٤, ५. ६ and ① . ②"]),
    ("emoji 👍🏽 the end 👍", ["emoji 👍🏽 end👍"]),
    ("$5.00 (five) 50% off! #1 @home a/b c\\d e=f g+h",
     ["$ 5.00 ( five ) 50 % off ! # 1 @ home a / b c \\ d e = f g + h"]),
    ("Saint Bernadette Soubirous", ["Saint Bernadette Soubirous",
                                    "Bernadette", "the Saint Bernadette"]),
    ("In 1858 , to  the   girl.", ["1858", "in 1858 to a girl"]),
    ("running runs easily generalizations relational conditional",
     ["run ran easy generalization relate condition"]),
    ("one two three four five six seven eight nine ten",
     ["one two three four six five seven eight nine ten eleven twelve"]),
]

ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return ARTICLES.sub(" ", text).split()


def squad(text, reference):
    a, b = normalised(text), normalised(reference)
    if not a or not b:
        return float(a == b), float(a == b)
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    if common == 0:
        return float(a == b), 0.0
    precision, recall = common / len(a), common / len(b)
    return float(a == b), 2 * precision * recall / (precision + recall)


def rouge(text, references, stem):
    names = ("rouge1", "rouge2", "rougeL")
    scorer = rouge_scorer.RougeScorer(list(names), use_stemmer=stem)
    scores = scorer.score_multi(references, text)
    return [scores[name].fmeasure for name in names]


bleu = sacrebleu.BLEU()
rows = []
for text, references in PAIRS:
    best = [max(x) for x in zip(*(squad(text, r) for r in references))]
    alone = bleu.corpus_score([text], [[r] for r in references])
    rows.append({
        "text": text, "references": references,
        "rouge": rouge(text, references, False),
        "rouge_stemmed": rouge(text, references, True),
        "squad": best,
        "tokens_13a": bleu.tokenizer(text),
        "bleu": alone.score,
        "lengths": [alone.sys_len, alone.ref_len],
        "matches": alone.counts, "total": alone.totals,
    })


def corpus(pairs):
    most = max(len(r) for _, r in pairs)
    # A text without so many references has None in the other lists.
    lists = [[r[i] if i < len(r) else None for _, r in pairs]
             for i in range(most)]
    return bleu.corpus_score([t for t, _ in pairs], lists).score


STEMS = """
relat condit happ hop fall hiss fizz fail fil tann control roll rat ceas vil
dign enjo syzyg tr sk d t enc yell say opp adopt depend effect hope rational
radical analog theo biolog formal form bow hopeful electr w x7 2nd conflat troubl
siz
""".split()
SUFFIXES = """
- s es sses ss ies ied ed ing eed y ly e ational tional enci anci izer bli abli
alli entli eli ousli ization ation ator alism iveness fulness ousness aliti
iviti biliti fulli logi icate ative alize iciti ical ful ness al ance ence er
ic able ible ant ement ment ent ion sion tion ou ism ate iti ous ive ize ll
ization ally fully
""".split()
WORDS = """
sky skies dying lying tying news innings inning outings outing cannings canning
howe proceed exceed succeed generalizations relational conditional possibly
yyyy ayyb syzygy toy by flies spied enjoyment argument
""".split()


def stems():
    """Every suffix of the rules behind stems of all shapes."""
    stem = porter.PorterStemmer().stem
    words = WORDS + [a + b.strip("-") for a in STEMS for b in SUFFIXES]
    return {w: stem(w) for w in dict.fromkeys(words)}


out = {"versions": {p: importlib.metadata.version(p)
                    for p in ("rouge-score", "sacrebleu", "nltk")},
       "pairs": rows,
       "corpus_bleu": corpus(PAIRS),
       # Whose longest n-grams have no match: smoothed.
       "smoothed_bleu": corpus([PAIRS[0], PAIRS[1], PAIRS[13]])}
path = HERE / "text_metrics.json"
out["stems"] = " ".join(f"{a}:{b}" for a, b in stems().items())
path.write_text(json.dumps(out, indent=1) + "\n")
print(path.stat().st_size, "bytes", out["corpus_bleu"], out["smoothed_bleu"],
      bleu.get_signature())
