"""data/prepare.py: answers to choose among, and texts of language models."""

import os
import unittest

from tokenizers import Tokenizer

from tests.harness.prepare_case import Folder, PrepareCase, t5_tokenizer


class PrepareChooseLmTest(PrepareCase):
    def test_choose_among_answers_of_all_rows_as_raft_has_them(self):
        table = self.write("a.csv", "Title,Text,ID,Label\n"
                           "red,sun,0,moon tree\nsun,red,1,1\n")
        self.good("--task", "choose", "--tokenizer", self.t5, "--input", table,
                  "--columns", "Title+Text,Label", "--field-names",
                  "--list-choices", "--choices", "star, moon tree",
                  "--output", self.path("x"))
        f = Folder(self.path("x"))
        tok = Tokenizer.from_file(os.path.join(self.t5, "tokenizer.json"))
        text = "Title: red\nText: sun\nPossible labels: star, moon tree"
        self.assertEqual(f.input[0], tok.encode(text).ids)
        self.assertEqual(f.target, [[8, 1, 7, 9, 1]] * 2)
        self.assertEqual(f.choices, [[2, 3]] * 2)
        self.assertEqual(f.label, [1, 1])
        self.assertEqual(f.references, ["moon tree", "moon tree"])
        self.assertEqual(f.index["label_names"], ["star", "moon tree"])

    def test_choose_among_a_rows_own_answers(self):
        lines = self.write(
            "a.jsonl", '{"q": "red", "a": "sun", "c": "[\\"moon\\", \\"sun\\"]"}\n'
            '{"q": "sun", "a": "2", "c": "moon | star|tree"}\n')
        common = ("--task", "choose", "--tokenizer", self.t5, "--input", lines,
                  "--output", self.path("x"), "--columns")
        self.good(*common, "q,a,c")
        f = Folder(self.path("x"))
        self.assertEqual(f.target, [[7, 1, 6, 1], [7, 1, 8, 1, 9, 1]])
        self.assertEqual(f.choices, [[2, 2], [2, 2, 2]])
        self.assertEqual((f.label, f.index["labels"]), ([1, 2], 3))
        self.bad("choose takes 3 without --choices", *common, "q,a", "--force")
        self.bad("a.jsonl:1: answer 'sun' is none of the choices", *common,
                 "q,a", "--choices", "moon,star", "--force")
        self.bad("two or more different texts", *common, "q,a", "--choices",
                 "moon,moon", "--force")
        self.bad("a.jsonl:1: choices must be two or more", *common, "q,a,q",
                 "--force")
        self.bad("--choices is for --task choose", "--task", "text_to_text",
                 "--tokenizer", self.t5, "--input", lines, "--columns", "q,a",
                 "--choices", "a,b", "--output", self.path("x"), "--force")

    def test_lm_takes_texts_or_prompts_and_what_follows(self):
        tsv = self.write("a.tsv", "a\tb\tc\nred\tsun\tmoon tree\n")
        bare = self.path("bare")  # a tokenizer that puts no </s> itself
        t5_tokenizer(bare, post_processor=False)
        common = ("--task", "lm", "--input", tsv, "--prefix", "star ",
                  "--tokenizer", bare)
        self.good(*common, "--columns", "a+b", "--output", self.path("x"))
        self.good(*common, "--columns", "a+b,c", "--output", self.path("y"))
        x, y = Folder(self.path("x")), Folder(self.path("y"))
        self.assertEqual(x.input, [[8, 3, 6, 1]])
        self.assertFalse(x.target)
        self.assertEqual((x.index["task"], x.index["max_target"]), ("lm", 0))
        self.assertEqual((y.input, y.target), ([[8, 3, 6]], [[7, 9, 1]]))
        self.assertEqual(y.references, ["moon tree"])
        self.bad("lm takes 1 or 2", *common, "--columns", "a,b,c", "--output",
                 self.path("z"))


if __name__ == "__main__":
    unittest.main()
